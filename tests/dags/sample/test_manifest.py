"""The manifest is written and read piece by piece; digests of rows do not depend on the pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.checks.output import check_run
from fruit_pipeline.sample import manifest as sample_manifest
from fruit_pipeline.sample.manifest import Identity, Manifest, ManifestWriter, RowsDigest
from image_features.contract import MANIFEST, MANIFEST_SCHEMA, MARKER, RunLayout
from image_features.errors import Damaged, JobError, Stage
from image_features.storage import Storage
from support.documents import change_values
from support.runs import finished_run


def rows_of(shard: int) -> list[Identity]:
    return [(f"l/{shard:02d}-{n}.jpg", "l", f"{shard}{n}") for n in range(3)]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """Four shards of three images, in pieces of five rows or more."""
    monkeypatch.setattr(sample_manifest, "_ROWS", 5)
    writer = ManifestWriter()
    for shard in range(4):
        image, label, sha256 = zip(*rows_of(shard), strict=True)
        writer.add(shard, {"image": image, "label": label, "sha256": sha256, "bytes": [7, 8, 9]})
    storage = Storage(tmp_path)
    writer.put(storage)
    return storage


def change(storage: Storage, table: pa.Table) -> Storage:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.put(MANIFEST, sink.getvalue())
    return storage


def table_of(storage: Storage) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.get(MANIFEST)))


def test_a_manifest_is_one_table_whatever_its_row_groups(manifest: Storage) -> None:
    table = table_of(manifest)
    assert table.schema.equals(MANIFEST_SCHEMA)
    assert pq.ParquetFile(pa.BufferReader(manifest.get(MANIFEST))).num_row_groups == 2
    assert table.column("shard").to_pylist() == [n // 3 for n in range(12)]
    assert table.column("bytes").to_pylist() == [7, 8, 9] * 4


def test_shards_are_taken_one_after_another(manifest: Storage) -> None:
    reader = Manifest(manifest)
    assert reader.take(0) == rows_of(0)
    assert reader.take(1) == rows_of(1)
    assert (reader.take(99), reader.next_shard) == ([], 2)
    assert (reader.take(2), reader.take(3)) == (rows_of(2), rows_of(3))
    assert (reader.take(4), reader.next_shard) == ([], None)


@pytest.mark.parametrize("rows", [[0, 0], [1, 0]], ids=["twice", "out of order"])
def test_an_image_that_is_listed_twice_is_detected_by_the_order(manifest: Storage, rows: list[int]) -> None:
    table = table_of(manifest)
    reader = Manifest(change(manifest, pa.concat_tables([table.take(rows), table.slice(2)])))
    with pytest.raises(JobError, match=r"manifest.parquet: 'l/00-0.jpg' is listed twice, or out of order"):
        reader.take(0)


def test_a_file_that_is_not_a_manifest_is_refused(manifest: Storage) -> None:
    with pytest.raises(JobError, match=r"manifest.parquet has columns \['image', 'label'"):
        Manifest(change(manifest, table_of(manifest).drop_columns(["bytes"])))
    manifest.put(MANIFEST, b"no parquet")
    with pytest.raises(JobError, match=r"manifest.parquet cannot be read as parquet"):
        Manifest(manifest)


def test_a_manifest_other_than_the_markers_is_refused(manifest: Storage) -> None:
    digest = hashlib.sha256(manifest.get(MANIFEST)).hexdigest()
    assert Manifest(manifest, digest).take(0) == rows_of(0)
    with pytest.raises(Damaged, match=r"manifest.parquet is not the one that the sample's marker") as caught:
        Manifest(manifest, "0" * 64)
    assert caught.value.stage is Stage.SAMPLE


def test_a_shard_of_the_manifest_that_the_marker_does_not_list_fails_the_checks(run: Path) -> None:
    storage = Storage(run / "sample")
    row = {"image": "zz/z.jpg", "label": "zz", "sha256": "0" * 64, "bytes": 1, "shard": 77}
    table = table_of(storage)
    change(storage, pa.concat_tables([table, pa.Table.from_pylist([row], schema=table.schema)]))
    change_values(run / "sample" / MARKER, manifest_digest="")
    with pytest.raises(JobError, match=r"manifest.parquet has shard 77, which is not in the marker"):
        check_run(RunLayout(str(run)))


def test_digests_of_a_run_do_not_depend_on_its_shards_or_its_place(
    standing_run: Path, tmp_path: Path, drawn_folder: Path, random_backbone: Path
) -> None:
    more_shards = finished_run(tmp_path, drawn_folder, random_backbone, cores=4)
    one, other = (check_run(RunLayout(str(root))) for root in (standing_run, more_shards))
    assert one.shards != other.shards
    assert (one.rows_digest, one.images_digest) == (other.rows_digest, other.images_digest)
    assert one.images_digest != one.rows_digest


def test_a_digest_changes_with_any_name_or_number() -> None:
    values, rows = np.ones((1, 2), np.float32), rows_of(0)[:1]
    digests = set()
    for some_rows, some_values in ((rows, values), (rows, -values), (rows_of(1)[:1], values), (rows, None)):
        digest = RowsDigest()
        digest.add(some_rows, some_values)
        digests.add(digest.digest)
    assert len(digests) == 4
