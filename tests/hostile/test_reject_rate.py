"""The share of rejects above which a run is refused, after all is written and until it is raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bombs import encoded
from PIL import Image

from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction
from image_features.contract import FeaturesMarker
from image_features.errors import Failed, JobError
from image_features.reduction import run as reduce
from image_features.storage import Storage
from support.spark import LocalSpark


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """Ten images, of which three are none: two texts and an empty file."""
    source = tmp_path / "source" / "a"
    source.mkdir(parents=True)
    for number in range(7):
        (source / f"{number}.png").write_bytes(encoded(Image.new("RGB", (9, 9), (number, 0, 0)), "PNG"))
    for name, content in (("x.png", b"text"), ("y.png", b"text"), ("z.png", b"")):
        (source / name).write_bytes(content)
    folder = tmp_path / "run" / "sample"
    write_sample(
        SampleRequest(str(source.parent), cores=1), Source(source.parent), Storage(folder, create=True)
    )
    return folder


@pytest.fixture
def extract(sample: Path, random_backbone: Path) -> Any:
    def extract(limit: float) -> FeaturesMarker:
        features = str(sample.parent / "features")
        return extraction.run(
            LocalSpark(), str(sample), str(random_backbone), features, max_reject_rate=limit
        )

    return extract


def shards(sample: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sample.parent.glob("[fr]e*/shard-*")}


@pytest.mark.parametrize("limit", [0.3, 0.31, 1])
def test_as_many_rejects_as_the_limit_allows_are_no_failure(limit: float, extract: Any) -> None:
    assert extract(limit).rejects == 3


@pytest.mark.parametrize("limit", [0, 0.29])
def test_more_rejects_fail_the_run_once_all_is_written_and_the_line_says_what_and_where(
    limit: float, sample: Path, extract: Any
) -> None:
    with pytest.raises(Failed) as caught:
        extract(limit)
    line = str(caught.value)
    assert line.startswith(
        "3 of 10 images were rejected (2 not-an-image, 1 empty), more than the share of "
        f"{limit:g} that max_reject_rate allows; file://{sample.parent}/rejects names each"
    )
    assert "\n" not in line
    rows = {
        folder: sum(pq.read_metadata(path).num_rows for path in (sample.parent / folder).glob("shard-*"))
        for folder in ("features", "rejects")
    }
    assert rows == {"features": 7, "rejects": 3}
    assert not (sample.parent / "features" / "_SUCCESS").exists()


def test_files_left_out_count_as_rejects_where_that_is_requested(
    tmp_path: Path, sample: Path, random_backbone: Path
) -> None:
    source = tmp_path / "heic" / "a"
    source.mkdir(parents=True)
    for number in range(7):
        (source / f"{number}.png").write_bytes(encoded(Image.new("RGB", (9, 9), (number, 0, 0)), "PNG"))
    for name in ("1.HEIC", "2.HEIC", "3.HEIC", ".hidden.png"):
        (source / name).write_bytes(b"x")
    target = Storage(tmp_path / "r" / "sample", create=True)
    write_sample(SampleRequest(str(source.parent), cores=1), Source(source.parent), target)

    def extract(limit: float, count: bool) -> FeaturesMarker:
        features = str(tmp_path / "r" / "features")
        return extraction.run(
            LocalSpark(),
            target.uri,
            str(random_backbone),
            features,
            max_reject_rate=limit,
            count_left_out=count,
        )

    assert extract(0, False).rejects == 0
    assert extract(0.3, True).features == 7
    with pytest.raises(Failed, match=r"3 of 10 images were rejected \(3 left out as no-decoder\)"):
        extract(0.29, True)


def test_a_refused_run_is_not_taken_for_a_whole_one(sample: Path, extract: Any) -> None:
    with pytest.raises(Failed):
        extract(0)
    features = str(sample.parent / "features")
    with pytest.raises(JobError, match="has no _SUCCESS"):
        reduce(LocalSpark(), features, str(sample.parent / "pca"), 2)


def test_a_higher_limit_takes_the_shards_as_they_stand(sample: Path, extract: Any) -> None:
    with pytest.raises(Failed):
        extract(0)
    before = shards(sample)
    assert before
    marker = extract(0.5)
    assert (marker.images, marker.features, marker.rejects, marker.computed_shards) == (10, 7, 3, 0)
    assert shards(sample) == before


def test_a_lower_limit_refuses_a_run_that_was_accepted_and_back_again(sample: Path, extract: Any) -> None:
    extract(0.5)
    before = shards(sample)
    with pytest.raises(Failed):
        extract(0.1)
    assert not (sample.parent / "features" / "_SUCCESS").exists()
    extract(0.5)
    assert (sample.parent / "features" / "_SUCCESS").exists()
    assert shards(sample) == before
