"""The images, features and request counts of the load benchmark."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, load_data
from benchmarks.jobs.counting_s3 import kind_of
from fruit_pipeline.run.progress import ExtractionFollower
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.contract import MODEL_JSON, BackboneSpec, RunLayout
from image_features.documents import read_document
from image_features.features import read_features
from image_features.images import decode_rgb
from image_features.storage import Storage


def test_tiny_images_decode_and_are_all_different(tmp_path: Path) -> None:
    load_data.draw(tmp_path / "tiny", 500, 7)
    files = [path.read_bytes() for path in (tmp_path / "tiny").rglob("*.jpg")]
    assert len({hashlib.sha256(content).hexdigest() for content in files}) == 500
    assert len(list((tmp_path / "tiny").iterdir())) == 7
    assert all(decode_rgb(content, 96).shape == (96, 96, 3) for content in files[:50])
    pictures = {decode_rgb(content, 96).tobytes() for content in files}
    assert len(pictures) == load_data.PICTURES, "the comment changes no pixel"
    assert max(map(len, files)) < 1_000


def test_drawn_features_are_those_of_the_sample(tmp_path: Path, random_backbone: Path) -> None:
    load_data.draw(tmp_path / "tiny", 60, 6)
    layout = RunLayout(f"file://{tmp_path}/run")
    sample = Storage(layout.sample, create=True)
    write_sample(SampleRequest(str(tmp_path / "tiny"), cores=1), Source(tmp_path / "tiny"), sample)
    Storage(layout.features, create=True)
    spec = read_document(BackboneSpec, Storage(random_backbone), MODEL_JSON)
    marker = load_data.draw_features(layout.root, spec)
    assert marker.images == 60
    for shard in marker.shards:
        table, values = read_features(Storage(layout.features), shard, spec.width, ("image",))
        assert values.shape == (table.num_rows, spec.width)
    Storage(layout.rejects, create=True)
    progress = ExtractionFollower(layout, Storage)
    now = datetime.now(UTC)
    assert progress.poll(now, now).done == 60


@pytest.mark.parametrize(
    ("method", "query", "kind"),
    [
        ("GET", "list-type=2&prefix=runs%2F1%2F", "LIST"),
        ("GET", "", "GET"),
        ("PUT", "partNumber=1&uploadId=x", "PUT"),
        ("HEAD", "", "HEAD"),
    ],
)
def test_requests_are_classified_as_in_the_price_list(method: str, query: str, kind: str) -> None:
    assert kind_of(method, query) == kind


def test_the_server_counts_its_requests() -> None:
    with load.served() as server:
        storage = Storage(f"s3://{load.BUCKET}/x")
        before = server.counts()
        storage.put("a", b"12345")
        storage.put("b", b"1")
        assert storage.get("a").to_pybytes() == b"12345"
        assert sorted(stored.key for stored in storage.list()) == ["a", "b"]
        counts = {kind: n - before.get(kind, 0) for kind, n in server.counts().items()}
    assert {kind: n for kind, n in counts.items() if n} == {"PUT": 2, "GET": 1, "LIST": 1, "bytes sent": 6}


def test_a_size_is_compared_with_the_smaller_one() -> None:
    def stages(seconds: float, peak: int) -> dict[str, Any]:
        stage = {"seconds": seconds, "requests": {"PUT": 3, "bytes sent": 99}, "peaks": {"python": peak}}
        return {"check": stage, "report": {**stage, "bytes": 2**20}, "objects": {"count": 5, "bytes": 2**21}}

    rows = load._rows([10, 20], {"10": stages(1, 2**20), "20": stages(3, 2**20)})
    by_what = {(item.what, item.size): item for item in rows}
    assert by_what["check", 10].ratio is None
    assert (by_what["check", 20].ours, by_what["check", 20].ratio) == (3, 3)
    assert by_what["check: memory, Python", 20].ratio == 1
    assert by_what["check: requests to S3", 20].ours == 3
