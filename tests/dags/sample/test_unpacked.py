"""A sample that is not packed: listed by the draw, read by the workers from the source's bucket."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.output import check_run
from fruit_pipeline.checks.preflight import check_source
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction, reduction, sample_reader
from image_features.contract import LISTED_SCHEMA, MANIFEST, RunLayout, SampleMarker
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.storage import Storage
from support.cli import run_cli
from support.local_aws import BUCKET, REGION, LocalAws
from support.spark import LocalSpark

pytestmark = pytest.mark.usefixtures("s3_environment")


@pytest.fixture
def prefix(local_aws: LocalAws, drawn_folder: Path, tmp_path: Path) -> str:
    """Twelve labels with two drawn images each, one with an odd name, and one file that is not an image."""
    name = f"photos/{tmp_path.name}"
    for path in sorted(drawn_folder.glob("*/00[01].jpg")):
        local_aws.put(f"{name}/{path.parent.name}/{path.name}", path.read_bytes())
    local_aws.put(f"{name}/Plum/été #1+%20.jpg", (drawn_folder / "Plum" / "002.jpg").read_bytes())
    local_aws.put(f"{name}/Plum/text.jpg", b"no image")
    return name


def listed(source: str, target: Path) -> SampleMarker:
    request = SampleRequest(source, cores=1, pack=False)
    return write_sample(request, Source(source), Storage(target, create=True))


def rows(folder: Path, columns: list[str]) -> list[dict[str, Any]]:
    tables = (pq.read_table(path, columns=columns) for path in sorted(folder.glob("shard-*")))
    return [row for table in tables for row in table.to_pylist()]


class RequesterPays(BaseHTTPRequestHandler):
    """A bucket with one image that answers only who pays, as S3 does."""

    LIST = (
        b'<?xml version="1.0"?><ListBucketResult><Name>pays</Name><KeyCount>1</KeyCount>'
        b"<IsTruncated>false</IsTruncated><Contents><Key>fruits/A/1.png</Key><Size>3</Size>"
        b'<LastModified>2024-01-01T00:00:00.000Z</LastModified><ETag>"x"</ETag></Contents></ListBucketResult>'
    )
    DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def do_GET(self) -> None:
        pays = self.headers.get("x-amz-request-payer") == "requester"
        body = (self.LIST if "list-type" in self.path else b"abc") if pays else self.DENIED
        self.send_response(200 if pays else 403)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def paid_bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), RequesterPays)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
    yield Aws(boto3.Session("test", "test", region_name=REGION), REGION, endpoint)
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("pack", ["", "--no-pack"])
def test_a_requester_pays_source_is_read_by_all_who_read_it(
    paid_bucket: Aws, tmp_path: Path, pack: str
) -> None:
    source = "s3://pays/fruits"
    words = [
        "sample",
        "--source",
        source,
        "--output",
        str(tmp_path / "sample"),
        "--all",
        *filter(None, [pack]),
    ]
    refused = run_cli(*words)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "S3 says AccessDenied (Access Denied)" in refused.stderr
    assert run_cli(*words, FRUITS_SOURCE_REQUESTER_PAYS="true").returncode == 0
    target = Storage(tmp_path / "sample")
    marker = read_document(SampleMarker, target)
    read = sample_reader.SampleReader(target, marker).read(marker.shards[0])  # as the nodes do
    assert bytes(read.contents[0]) == b"abc"
    check_source(source, paid_bucket, payer={"RequestPayer": "requester"})
    with pytest.raises(JobError, match="grant s3:ListBucket"):
        check_source(source, paid_bucket)


def test_nothing_is_copied(prefix: str, tmp_path: Path) -> None:
    marker = listed(f"s3://{BUCKET}/{prefix}", tmp_path / "sample")
    assert (marker.packed, marker.images, marker.cores) == (False, 26, 1)
    for path in (tmp_path / "sample").glob("shard-*"):
        assert pq.read_schema(path).names == LISTED_SCHEMA.names
    manifest = pq.read_table(tmp_path / "sample" / MANIFEST).to_pylist()
    assert {row["sha256"] for row in manifest} == {""}
    assert sum(row["bytes"] for row in manifest) == marker.bytes


def test_the_features_are_those_of_a_packed_sample(
    prefix: str, tmp_path: Path, random_backbone: Path
) -> None:
    source, spark = f"s3://{BUCKET}/{prefix}", LocalSpark()
    for name, pack in (("packed", True), ("listed", False)):
        sample = tmp_path / name / "sample"
        request = SampleRequest(source, cores=1, pack=pack)
        write_sample(request, Source(source), Storage(sample, create=True))
        features = str(tmp_path / name / "features")
        extraction.run(spark, str(sample), str(random_backbone), features)
        reduction.run(spark, features, str(tmp_path / name / "pca"), 8, model=str(random_backbone))
        assert check_run(RunLayout(str(tmp_path / name))).rejects == 1
    for stage, columns in (
        ("features", ["image", "label", "sha256", "features"]),
        ("rejects", ["image", "label", "sha256", "reason"]),
        ("pca", ["image", "label", "embedding"]),
    ):
        tables = [rows(tmp_path / name / stage, columns) for name in ("packed", "listed")]
        assert tables[0] == tables[1] != []


def test_a_worker_reads_many_objects_at_a_time(
    prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = sample_reader.ThreadPoolExecutor

    def counted(workers: int) -> Any:
        asked.append(workers)
        return real(workers)

    monkeypatch.setattr(sample_reader, "ThreadPoolExecutor", counted)
    marker = listed(f"s3://{BUCKET}/{prefix}", tmp_path)
    reader = sample_reader.SampleReader(Storage(tmp_path), marker)
    images = [image for shard in marker.shards for image in reader.read(shard).images]
    assert len(images) == 26
    assert set(asked) == {32}


def test_some_images_of_a_shard_can_be_read_alone(prefix: str, tmp_path: Path) -> None:
    marker = listed(f"s3://{BUCKET}/{prefix}", tmp_path)
    name = "Plum/été #1+%20.jpg"
    parts = [
        sample_reader.SampleReader(Storage(tmp_path), marker).read(shard, {name}) for shard in marker.shards
    ]
    assert [image for part in parts for image in part.images] == [name]


def replaced(aws: LocalAws, key: str) -> None:
    aws.put(key, b"another image")


def deleted(aws: LocalAws, key: str) -> None:
    aws.s3.delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.parametrize(("change", "phrase"), [(replaced, "been changed"), (deleted, "been deleted")])
def test_an_image_that_has_changed_since_the_draw_ends_the_step(
    prefix: str,
    tmp_path: Path,
    random_backbone: Path,
    local_aws: LocalAws,
    change: Callable[[LocalAws, str], None],
    phrase: str,
) -> None:
    listed(f"s3://{BUCKET}/{prefix}", tmp_path / "sample")
    change(local_aws, f"{prefix}/Plum/001.jpg")
    with pytest.raises(JobError) as caught:
        extraction.run(
            LocalSpark(), str(tmp_path / "sample"), str(random_backbone), str(tmp_path / "features")
        )
    assert f"s3://{BUCKET}/{prefix}/Plum/001.jpg has {phrase} since the sample was drawn" in str(caught.value)
    assert not (tmp_path / "features" / "_SUCCESS").exists()


def test_a_damaged_list_is_refused(prefix: str, tmp_path: Path) -> None:
    marker = listed(f"s3://{BUCKET}/{prefix}", tmp_path)
    shutil.copy(tmp_path / "shard-00001.parquet", tmp_path / "shard-00000.parquet")
    with pytest.raises(
        JobError, match=r"shard-00000.parquet is not the shard that the sample's marker lists"
    ):
        sample_reader.SampleReader(Storage(tmp_path), marker).read(marker.shards[0])


def test_a_packed_sample_is_not_mistaken_for_a_listed_one(prefix: str, tmp_path: Path) -> None:
    source = f"s3://{BUCKET}/{prefix}"
    write_sample(SampleRequest(source, cores=1), Source(source), Storage(tmp_path, create=True))
    with pytest.raises(JobError, match="contains the sample of another request"):
        listed(source, tmp_path)


def test_the_source_may_be_read_with_other_credentials(prefix: str, tmp_path: Path, aws: Aws) -> None:
    source = f"s3://{BUCKET}/{prefix}"
    marker = listed(source, tmp_path)
    reader = sample_reader.SampleReader(Storage(tmp_path), marker, aws.storage(source))
    assert read_document(SampleMarker, Storage(tmp_path)) == marker
    assert sum(len(reader.read(shard).images) for shard in marker.shards) == 26
