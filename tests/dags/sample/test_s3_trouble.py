"""Objects through an S3 that refuses, breaks off, cuts, flips bits and forgets its answers."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest

from fruit_pipeline.aws.session import Aws
from image_features.contract import MARKER, SAMPLE_SCHEMA, SampleMarker, SampleShard
from image_features.documents import read_document, to_json
from image_features.errors import StorageError
from image_features.shards import read_shard, write_shard
from image_features.storage import Storage
from support.fault_kinds import BROKEN, DENIED, EXPIRED, THROTTLED, Amend, CutBody, Error, LoseAnswer, Refuse
from support.faulty_aws import Answer, Call, Fault, FaultyAws
from support.local_aws import BUCKET, REGION, LocalAws

KEY = "shard-00003.parquet"
ROWS = {"image": ["a/1"], "label": ["a"], "sha256": ["00"], "content": [bytes(range(256)) * 40]}
SHARD = SampleShard(3, 1, 10_240, "ab")
SAMPLE = SampleMarker(1, 10_240, {"a": 1}, 7, "s3://b/fruits", "ab", [SHARD])


@pytest.fixture
def faulty(local_aws: LocalAws) -> Iterator[FaultyAws]:
    with FaultyAws(local_aws.endpoint, REGION) as proxy:
        yield proxy


@pytest.fixture
def storage(faulty: FaultyAws, request: pytest.FixtureRequest) -> Storage:
    aws = Aws(boto3.Session("test", "test", region_name=REGION), REGION, faulty.endpoint)
    return aws.storage(f"s3://{BUCKET}/trouble/{request.node.name}")


def flipped(call: Call, answer: Answer) -> Answer:
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 1
    return Answer(answer.status, answer.headers, bytes(body))


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(THROTTLED, "GET", "PUT", times=3),
        Refuse(BROKEN, "GET", "PUT", times=3),
        LoseAnswer("PUT"),
        CutBody("GET"),
        CutBody("GET", length_matches=True),
        Amend(flipped, "GET", times=1),
    ],
    ids=["slow-down", "internal-error", "lost-answer", "broken-off", "cut", "flipped"],
)
def test_a_shard_comes_back_right_whatever_passes(fault: Fault, storage: Storage, faulty: FaultyAws) -> None:
    faulty.add(fault)
    write_shard(storage, SAMPLE_SCHEMA, ROWS, SHARD)
    assert read_shard(storage, KEY, SAMPLE_SCHEMA).to_pydict() == ROWS
    assert fault.caught.total(), "the fault did not strike"


def test_a_marker_that_arrives_cut_is_read_again(storage: Storage, faulty: FaultyAws) -> None:
    storage.put(MARKER, to_json(SAMPLE))
    fault = faulty.add(CutBody("GET", length_matches=True))
    assert read_document(SampleMarker, storage) == SAMPLE
    assert fault.caught.total() == 1


def test_a_listing_that_breaks_off_is_continued(storage: Storage, faulty: FaultyAws) -> None:
    for n in range(20):
        storage.put(f"{n}", b"")
    fault = faulty.add(CutBody("GET", path="list-type=2"))
    assert len(list(storage.list())) == 20
    assert fault.caught.total() == 1


@pytest.mark.parametrize(
    ("name", "words", "action"),
    [("GET", "read", "GetObject"), ("PUT", "write", "PutObject"), ("DELETE", "delete", "DeleteObject")],
)
def test_a_denied_call_is_reported_with_the_permission_to_grant(
    name: str, words: str, action: str, storage: Storage, faulty: FaultyAws
) -> None:
    storage.put(KEY, b"")
    faulty.add(Refuse(DENIED, name, "POST"))  # several are deleted by a POST
    work = {
        "GET": storage.get,
        "PUT": lambda key: storage.put(key, b""),
        "DELETE": lambda key: storage.delete([key]),
    }
    with pytest.raises(StorageError) as caught:
        work[name](KEY)
    said = DENIED.message.format(service="s3", name="POST" if name == "DELETE" else name)
    assert str(caught.value) == (
        f"cannot {words} {storage.uri_of(KEY)}: S3 says AccessDenied ({said}); allow s3:{action} to the "
        "role that asked, in its policy, the bucket's and its KMS key's"
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (THROTTLED, "SlowDown", "S3 says SlowDown (Rate exceeded), after 8 retries"),
        (
            EXPIRED,
            "ExpiredToken",
            "S3 says ExpiredToken (The security token included in the request is expired)",
        ),
    ],
    ids=["slow-down", "expired"],
)
def test_an_error_of_s3_is_reported_in_its_words(
    error: Error, code: str, message: str, storage: Storage, faulty: FaultyAws
) -> None:
    faulty.add(Refuse(error, "GET"))
    with pytest.raises(StorageError) as caught:
        storage.get(KEY)
    assert str(caught.value) == f"cannot read {storage.uri_of(KEY)}: {message}"
    assert caught.value.code == code
    assert caught.value.retryable
