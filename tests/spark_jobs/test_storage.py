"""Objects below file:// and s3://: names of every kind, and errors of one line."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from image_features.errors import Damaged, InvalidKey, JobError, NotFound, StorageError
from image_features.shards import parquet_bytes
from image_features.storage import S3Access, Storage, join_uri, normalise_uri

ODD_NAMES = [
    "plain.jpg",
    "two words.jpg",
    "Äpfel/groß é.jpg",
    "日本/りんご 🍎.jpg",
    "a#1.jpg",
    "#.jpg",
    "100%",
    "p%20q%2Fr.jpg",
    "p+q & r.jpg",
    "what?.jpg",
    "semi;colon=[x]{y}~|'\".jpg",
    "deep/er/and/deeper.bin",
    ".hidden",
]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Access]:
    """A local S3 with one bucket, "images"."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    key = {"access_key_id": "testing", "secret_access_key": "testing", "token": None, "expires_at": None}
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="images")
    yield S3Access("us-east-1", endpoint, lambda: key)
    server.stop()


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty prefix with an odd name of its own, on both kinds of storage."""
    if request.param == "file":
        return Storage(tmp_path / "a b#c%20d?é+", create=True)
    return Storage(f"s3://images/{uuid.uuid4()}/a b#c%20d?é+", request.getfixturevalue("s3"))


def keys(storage: Storage, prefix: str = "") -> set[str]:
    return {obj.key for obj in storage.list(prefix)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b//", "s3://bucket/a/b"),
        ("s3://bucket/a b#c?d%20é", "s3://bucket/a b#c?d%20é"),
        ("/data/fruits/", "file:///data/fruits"),
        ("file:///data/fruits/", "file:///data/fruits"),
        ("file://localhost/data", "file:///data"),
        ("file:///a b#c?d%20é+", "file:///a b#c?d%20é+"),
        ("/a b#c?d%20é+", "file:///a b#c?d%20é+"),
        ("/", "file:///"),
        ("file:/data/fruits", "file:///data/fruits"),  # as Java and Spark write it
        ("/data//fruits/./x", "file:///data/fruits/x"),
        ("/s3:/x", "file:///s3:/x"),
    ],
)
def test_uris_are_written_one_way(given: str, expected: str) -> None:
    assert normalise_uri(given) == expected
    assert normalise_uri(expected) == expected


def test_a_plain_path_is_relative_to_the_working_folder_or_to_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    assert normalise_uri("fruits") == normalise_uri(Path("fruits")) == f"file://{tmp_path}/fruits"
    assert normalise_uri("~/fruits") == "file:///home/someone/fruits"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://", "names no bucket"),
        ("s3:///key", "names no bucket"),
        ("http://host/x", "only s3://, file:// and plain paths"),
        ("s3a://bucket/x", "only s3://, file:// and plain paths"),
        ("file://host/x", "names a host"),
        ("file://", "names no path"),
        ("file:data/x", "only s3://, file:// and plain paths"),
        ("FILE:/data", "only s3://, file:// and plain paths"),
        ("s3:/bucket/x", "only s3://, file:// and plain paths are supported; write s3://bucket/x"),
        ("S3://bucket/x", "write s3://bucket/x"),
        ("s3n:/bucket/x", "write s3://bucket/x"),
        ("https:/host/x", "only s3://, file:// and plain paths"),
        ("s3://bucket//x", "has an empty part"),
        ("s3://bucket/a//x", "has an empty part"),
        ("s3://bucket/a/./x", "has a part '.'"),
        ("s3://bucket/../x", r"has a part '\.\.'"),
        ("s3://bucket:443/x", "'bucket:443' is not the name of a bucket"),
        ("arn:aws:s3:::bucket/x", "is an ARN; give an access point by its alias"),
        ("s3://arn:aws:s3:eu-west-3:123456789012:accesspoint/ap/x", "is an ARN; give an access point by"),
        ("", "an empty path"),
    ],
)
def test_other_uris_are_refused_and_quoted(uri: str, reason: str) -> None:
    with pytest.raises(JobError, match=reason) as caught:
        Storage(uri)
    assert uri in str(caught.value)


def test_control_characters_are_refused_in_a_prefix_and_nul_in_any_path() -> None:
    with pytest.raises(JobError, match="has a control character"):
        normalise_uri("s3://bucket/a\tb")
    with pytest.raises(JobError, match="has a NUL character"):
        normalise_uri("/data/a\0b")


def test_a_path_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"\\xff' is not UTF-8; rename it"):
        normalise_uri(tmp_path / os.fsdecode(b"\xff"))


def test_segments_are_joined_with_one_slash() -> None:
    assert join_uri("s3://b/", "x", "y z") == "s3://b/x/y z"


def test_an_object_of_any_name_can_be_written_listed_read_and_deleted(storage: Storage) -> None:
    for key in ODD_NAMES:
        assert not storage.exists(key)
        storage.put(key, b"first")
        storage.put(key, b"second")
        assert storage.exists(key)
        assert [(obj.key, obj.size) for obj in storage.list()] == [(key, 6)]
        assert storage.get(key).to_pybytes() == b"second"
        storage.delete([key])
        assert not storage.exists(key)
        assert keys(storage) == set()


def test_a_local_object_is_the_file_of_that_name(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "new" / "folder", create=True)
    for key in ODD_NAMES:
        storage.put(key, key.encode())
        assert (tmp_path / "new" / "folder" / key).read_bytes() == key.encode()
    (tmp_path / "new" / "folder" / "by hand %41#.jpg").write_bytes(b"x")
    assert keys(storage) == {*ODD_NAMES, "by hand %41#.jpg"}


def test_bytes_buffers_and_files_are_written_alike(storage: Storage, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(bytes(range(256)) * 1000)
    for data in (file.read_bytes(), pa.py_buffer(file.read_bytes()), file):
        storage.put("object", data)
        assert storage.get("object").to_pybytes() == file.read_bytes()
        storage.put("object", b"")
        assert storage.get("object").size == 0


def test_a_listing_below_a_prefix_takes_whole_segments(storage: Storage) -> None:
    for key in ("run/a", "run/deep/b", "runs/c", "run.txt"):
        storage.put(key, b"x")
    assert keys(storage, "run") == {"run/a", "run/deep/b"}
    assert keys(storage) == {"run/a", "run/deep/b", "runs/c", "run.txt"}
    assert keys(storage, "nothing") == set()


def test_a_neighbouring_prefix_is_out_of_sight(storage: Storage, request: pytest.FixtureRequest) -> None:
    access = request.getfixturevalue("s3") if storage.uri.startswith("s3") else None
    Storage(storage.uri + "-more", access, create=True).put("x", b"x")
    assert keys(storage) == set()


def test_more_objects_than_one_page_of_a_listing_are_all_listed(tmp_path: Path) -> None:
    expected = {f"{number}.jpg" for number in range(1234)}
    for key in expected:
        (tmp_path / key).touch()
    assert keys(Storage(tmp_path)) == expected


def test_a_missing_object_is_not_found_and_named(storage: Storage) -> None:
    with pytest.raises(NotFound) as caught:
        storage.get("no such.jpg")
    assert str(caught.value) == f"cannot read {storage.uri}/no such.jpg: it does not exist"
    assert storage.get_or_none("no such.jpg") is None
    with pytest.raises(NotFound):
        storage.parquet_metadata("no such.jpg", 100)
    storage.delete(["no such.jpg"])


def test_a_missing_bucket_is_not_found_and_named(s3: S3Access) -> None:
    with pytest.raises(NotFound, match="cannot read s3://no-such-bucket/key: it does not exist"):
        Storage("s3://no-such-bucket", s3).get("key")
    with pytest.raises(JobError, match="s3://no-such-bucket"):
        list(Storage("s3://no-such-bucket", s3).list())


def test_a_key_that_is_no_path_cannot_be_listed_and_is_named(s3: S3Access) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.put_object(Bucket="images", Key="odd/a//b.jpg", Body=b"")
    with pytest.raises(InvalidKey, match=r"cannot list s3://images/odd.*a//b\.jpg") as caught:
        list(Storage("s3://images/odd", s3).list())
    assert not caught.value.retryable
    assert "\n" not in str(caught.value)


def test_a_missing_local_folder_cannot_be_opened_unless_it_is_to_be_created(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=f"cannot open file://{tmp_path}/none") as caught:
        Storage(tmp_path / "none")
    assert "\n" not in str(caught.value)
    assert keys(Storage(tmp_path / "none", create=True)) == set()


def test_what_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match=f"cannot read file://{tmp_path}/loop: ") as caught:
        Storage(tmp_path).get("loop")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=f"cannot write file://{tmp_path}/folder: ") as caught:
        Storage(tmp_path).put("folder", b"x")
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for create in (False, True):
        with pytest.raises(JobError, match=f"file://{tmp_path}/file") as caught:
            Storage(tmp_path / "file", create=create).put("key", b"x")
        assert "\n" not in str(caught.value)


@pytest.fixture
def parquet() -> bytes:
    """A parquet file with metadata, larger than the part that is read of its end."""
    incompressible = pa.array([uuid.uuid4().bytes * 4096 + uuid.uuid4().bytes for _ in range(4)])
    table = pa.table({"x": incompressible}).replace_schema_metadata({"colour": "grün", "n": "1"})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="none", use_dictionary=False)
    return sink.getvalue().to_pybytes()


def test_parquet_metadata_is_read_from_the_end_alone(storage: Storage, parquet: bytes) -> None:
    assert len(parquet) > 3 * 64 * 1024
    storage.put("whole", parquet)
    metadata = storage.parquet_metadata("whole", len(parquet))
    assert metadata["colour"] == "grün"
    assert metadata["n"] == "1"


def test_a_cut_parquet_file_is_refused_and_named(storage: Storage, parquet: bytes) -> None:
    for length in (0, 1, 3, 4, 100, 5000, len(parquet) - 100, len(parquet) - 4, len(parquet) - 1):
        storage.put("cut", parquet[:length])
        with pytest.raises(Damaged, match="not a whole parquet file") as caught:
            storage.parquet_metadata("cut", length)
        assert f"{storage.uri}/cut" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_parquet_file_without_metadata_has_none(storage: Storage) -> None:
    data = parquet_bytes(pa.table({"x": pa.array([], pa.int32())}))
    storage.put("plain", data)
    assert "image_features" not in storage.parquet_metadata("plain", data.size)
