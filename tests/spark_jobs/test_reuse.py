"""Features of an earlier run are taken over where bytes, backbone and preprocessing are the same."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.sample.drawn_images import draw_folder
from image_features import reuse
from image_features.contract import FeaturesMarker, reused_key
from image_features.documents import read_document, to_json
from image_features.errors import JobError
from image_features.inference import Backbone
from image_features.storage import Storage
from support.runs import BROKEN, Run, pack


@pytest.fixture
def later(run: Run) -> Run:
    """A run of the same images and 12 further ones, some of the old under another name."""
    run.extract()
    source = run.root / "source"
    draw_folder(source, per_label=3)
    for row in rows(run.sample, ["image", "content"]):
        target = source / row["image"].replace("Apple green", "Apple renamed")
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(row["content"])
    later = Run(run.root / "later", run.model, run.spark)
    pack(source, later.sample)
    return later


def rows(folder: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    tables = (pq.read_table(path, columns=columns) for path in sorted(folder.glob("shard-*")))
    return [row for table in tables for row in table.to_pylist()]


def listed(run: Run) -> list[dict[str, Any]]:
    return rows(run.features / "_reused")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images passed to each call of the backbone."""
    counts: list[int] = []
    real = Backbone.features

    def counted(self: Backbone, contents: Any, *args: Any) -> Any:
        counts.append(len(contents))
        return real(self, contents, *args)

    monkeypatch.setattr(Backbone, "features", counted)
    return counts


def test_the_result_is_that_of_a_full_run(later: Run) -> None:
    later.extract(earlier_run=str(later.root.parent))
    again = Run(later.root.parent / "full", later.model, later.spark)
    shutil.copytree(later.sample, again.sample)
    full = again.extract()
    marker = read_document(FeaturesMarker, Storage(later.features))
    assert rows(later.features) == rows(again.features)
    assert rows(later.rejects) == rows(again.rejects)
    assert marker.digest == full.digest
    assert (marker.features, marker.rejects) == (full.features, full.rejects)


def test_only_what_is_new_is_computed(later: Run, computed: list[int]) -> None:
    marker = later.extract(earlier_run=str(later.root.parent))
    known = {row["sha256"] for row in rows(later.root.parent / "features", ["sha256"])}
    images = rows(later.sample, ["sha256"])
    reused = sum(row["sha256"] in known for row in images)
    assert marker.reused == reused >= 24
    # The rejects of the earlier run are decoded again, and rejected again.
    assert sum(computed) == len(images) - reused
    assert marker.reuse == f"file://{later.root.parent}"


def test_a_list_says_which_features_came_from_where(later: Run) -> None:
    marker = later.extract(earlier_run=str(later.root.parent))
    earlier = {
        f"file://{path}": {row["sha256"] for row in pq.read_table(path).to_pylist()}
        for path in (later.root.parent / "features").glob("shard-*")
    }
    assert len(listed(later)) == marker.reused
    assert all(row["sha256"] in earlier[row["origin"]] for row in listed(later))
    names = {row["image"] for row in rows(later.features)}
    assert {row["image"] for row in listed(later)} < names
    lists = {path.name for path in (later.features / "_reused").iterdir()}
    assert lists == {reused_key(s.shard).rpartition("/")[2] for s in marker.shards if s.reused}


def test_a_shard_whose_list_is_missing_is_computed_again(later: Run, computed: list[int]) -> None:
    marker = later.extract(earlier_run=str(later.root.parent))
    computed.clear()
    (later.features / "_reused" / "shard-00001.parquet").unlink()
    again = later.extract(earlier_run=str(later.root.parent))
    assert again.computed_shards == 1
    assert len(computed) == 1
    assert again.shards == marker.shards


def test_a_rerun_without_the_earlier_run_keeps_finished_shards(later: Run) -> None:
    marker = later.extract(earlier_run=str(later.root.parent))
    assert later.extract() == marker


def test_an_earlier_run_without_features_changes_nothing(later: Run) -> None:
    """All its images were rejects."""
    source = later.root / "broken"
    for row in rows(later.root.parent / "sample", ["image", "content"]):
        if row["image"] in BROKEN:
            (source / row["image"]).parent.mkdir(parents=True, exist_ok=True)
            (source / row["image"]).write_bytes(row["content"])
    bare = Run(later.root / "bare", later.model, later.spark)
    pack(source, bare.sample)
    assert bare.extract().features == 0
    marker = later.extract(earlier_run=str(bare.root))
    assert (marker.reused, listed(later)) == (0, [])


@pytest.mark.parametrize("runtime", ["pillow 1.0, ai-edge-litert 1.0", ""])
def test_features_of_another_decoder_are_not_reused_and_the_reason_is_printed(
    later: Run, computed: list[int], runtime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    earlier_marker(later, runtime=runtime)
    marker = later.extract(earlier_run=str(later.root.parent))
    assert marker.reused == 0
    assert sum(computed) == marker.images
    said = capsys.readouterr().err
    assert f"the earlier run was made with {runtime or 'unknown versions'}" in said
    assert f"these nodes have {marker.runtime}" in said


# What is refused


def earlier_marker(later: Run, **values: Any) -> None:
    storage = Storage(later.root.parent / "features")
    marker = read_document(FeaturesMarker, storage)
    storage.put("_SUCCESS", to_json(dataclasses.replace(marker, **values)))


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def swap(shard: Path) -> None:
    shutil.copy(shard.with_name("shard-00001.parquet"), shard)


def without_a_column(shard: Path) -> None:
    table = pq.read_table(shard)
    pq.write_table(table.drop_columns(["features"]), shard)


def with_a_nan(shard: Path) -> None:
    table = pq.read_table(shard)
    values = table.column("features").to_pylist()
    values[0][7] = float("nan")
    field = table.schema.field("features")
    at = table.schema.get_field_index("features")
    pq.write_table(table.set_column(at, field, pa.array(values, field.type)), shard)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"schema_version": 1}, "has schema version 1, this code reads 2"),
        ({"model_digest": "00" * 32}, "cannot be reused: its backbone is mobilenet_v2 random:0 0000"),
        ({"preprocessing": "tf 224 9"}, "its preprocessing is 'tf 224 9', this run's is 'tf 224 51000000'"),
    ],
)
def test_an_earlier_run_of_another_kind_is_refused(later: Run, values: dict[str, Any], said: str) -> None:
    earlier_marker(later, **values)
    with pytest.raises(JobError) as caught:
        later.extract(earlier_run=str(later.root.parent))
    assert said in str(caught.value)
    assert not later.features.exists()


def test_an_earlier_run_that_is_not_finished_is_refused(later: Run) -> None:
    (later.root.parent / "features" / "_SUCCESS").unlink()
    with pytest.raises(JobError, match="has no _SUCCESS"):
        later.extract(earlier_run=str(later.root.parent))
    assert not later.features.exists()


def test_an_earlier_run_that_does_not_exist_is_refused(later: Run) -> None:
    with pytest.raises(JobError, match="nowhere/features"):
        later.extract(earlier_run=str(later.root / "nowhere"))


def test_a_run_cannot_reuse_itself(later: Run) -> None:
    with pytest.raises(JobError, match="is this very run"):
        later.extract(earlier_run=f"{later.root}/")


@pytest.mark.parametrize("damage", [cut, swap, without_a_column, with_a_nan, Path.unlink])
def test_a_damaged_shard_of_the_earlier_run_is_named(later: Run, damage: Callable[[Path], None]) -> None:
    shard = later.root.parent / "features" / "shard-00000.parquet"
    damage(shard)
    with pytest.raises(JobError, match=f"file://{shard}"):
        later.extract(earlier_run=str(later.root.parent))
    assert not (later.features / "_SUCCESS").exists()


# Finding


def test_digests_with_the_same_beginning_are_distinguished(run: Run) -> None:
    marker = run.extract()
    earlier = reuse.index(run.spark, str(run.root), marker)
    first = rows(run.features)[0]
    twin = first["sha256"][:16] + "0" * 48
    found = earlier.find([twin, "f" * 64, first["sha256"]])
    assert found.positions == [2]
    assert np.array_equal(found.features[0], np.array(first["features"], np.float32))
    assert found.origins == [f"file://{run.features}/shard-00000.parquet"]
