"""The PCA step over shards: equal to scikit-learn end to end, and it trusts nothing damaged."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.decomposition import PCA

from image_features import pca, reduction
from image_features.contract import (
    EMBEDDINGS_SCHEMA,
    FEATURES_SCHEMA,
    SCHEMA_VERSION,
    EmbeddingsShard,
    FeaturesMarker,
    FeaturesShard,
    PcaMarker,
)
from image_features.documents import read_document, to_json
from image_features.embedder import Embedder
from image_features.errors import JobError
from image_features.reduction import ReductionJob, Refused
from image_features.shards import info_of, parquet_bytes, read_shard, shard_info, write_shard
from image_features.storage import Storage
from support.documents import change_values, values_of
from support.runs import Run
from support.spark import over_the_wire

WIDTH = 24
ROWS = (30, 1, 0, 45, 20)  # features in each shard; all images of shard 2 were rejected
SHARDS = [f"shard-{n:05d}.parquet" for n in range(len(ROWS))]
WRITTEN = {*SHARDS, "_SUCCESS", "model.npz", "summary.json"}


def features_of(shard: int) -> np.ndarray:
    """Rows of clearly different variances around a mean that is large against them."""
    rng = np.random.default_rng(shard)
    return (100 + rng.standard_normal((ROWS[shard], WIDTH)) * 0.85 ** np.arange(WIDTH)).astype(np.float32)


FEATURES = np.concatenate([features_of(shard) for shard in range(len(ROWS))])


@dataclasses.dataclass(frozen=True)
class Step:
    """Finished features below a test's own folder, and the step that reduces them."""

    root: Path
    spark: Any

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def pca(self) -> Path:
        return self.root / "pca"

    def reduce(self, components: int | None = None, variance: float | None = None) -> PcaMarker:
        return reduction.run(self.spark, str(self.features), str(self.pca), components, variance)

    def refused(self, components: int | None = 5, variance: float | None = None) -> str:
        with pytest.raises(JobError) as caught:
            self.reduce(components, variance)
        assert not (self.pca / "_SUCCESS").exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "features"
    storage = Storage(folder, create=True)
    shards = []
    for number, rows in enumerate(ROWS):
        info = FeaturesShard(number, rows + 2, rows, {"empty": 2}, f"fingerprint {number}")
        columns = {
            "image": [f"label {number}/{row}.jpg" for row in range(rows)],
            "label": [f"label {number}"] * rows,
            "sha256": ["00"] * rows,
            "features": features_of(number).tolist(),
        }
        write_shard(storage, FEATURES_SCHEMA, columns, info)
        shards.append(info)
    marker = FeaturesMarker(
        images=sum(ROWS) + 10,
        features=sum(ROWS),
        rejects=10,
        rejects_by_reason={"empty": 10},
        width=WIDTH,
        model_digest="ab" * 32,
        backbone="mobilenet_v2",
        weights="random:0",
        preprocessing="tf 224 50000000",
        shards=shards,
        computed_shards=5,
        seconds=1.25,
    )
    storage.put("_SUCCESS", to_json(marker))
    return folder


@pytest.fixture
def step(finished: Path, tmp_path: Path, spark: Any) -> Step:
    shutil.copytree(finished, tmp_path / "features")
    return Step(tmp_path, spark)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def embeddings(folder: Path) -> np.ndarray:
    rows = [row for name in SHARDS for row in pq.read_table(folder / name).to_pylist()]
    return np.array([row["embedding"] for row in rows], np.float32)


def edit_features(file: Path, change: Callable[[list[list[float]]], Any]) -> None:
    """Change the rows of a features shard, or add and drop some; the schema stays."""
    table = pq.read_table(file)
    rows = table.column("features").to_pylist()
    change(rows)
    columns = {name: table.column(name).to_pylist()[:1] * len(rows) for name in ("image", "label", "sha256")}
    file.write_bytes(parquet_bytes(pa.table({**columns, "features": rows}, schema=table.schema)))


def edit_marker(step: Step, change: Callable[[dict[str, Any]], Any]) -> None:
    file = step.features / "_SUCCESS"
    values = values_of(file)
    change(values)
    change_values(file, **values)


@pytest.mark.parametrize("components", [1, 5, WIDTH])
def test_embeddings_and_model_equal_scikit_learns(components: int, step: Step) -> None:
    marker = step.reduce(components)
    reference = PCA(components, svd_solver="full").fit(FEATURES.astype(np.float64))
    expected = reference.transform(FEATURES.astype(np.float64))
    np.testing.assert_allclose(embeddings(step.pca), expected, atol=1e-5)
    model = pca.PcaModel.from_npz((step.pca / "model.npz").read_bytes(), "u")
    np.testing.assert_allclose(model.mean, reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(model.components, reference.components_, atol=1e-9)
    np.testing.assert_allclose(model.explained_variance, reference.explained_variance_, rtol=1e-9)
    assert marker.components == components
    assert marker.variance_kept == pytest.approx(reference.explained_variance_ratio_.sum())


def test_a_share_of_variance_keeps_as_many_components_as_scikit_learn(step: Step) -> None:
    marker = step.reduce(variance=0.8)
    reference = PCA(0.8, svd_solver="full").fit(FEATURES.astype(np.float64))
    assert marker.components == reference.n_components_ == embeddings(step.pca).shape[1]
    assert marker.variance_kept >= 0.8
    assert marker.request == "variance=0.8"


def test_one_shard_a_features_shard_the_empty_one_too_with_names_labels_and_counts(step: Step) -> None:
    marker = step.reduce(5)
    assert names(step.pca) == WRITTEN
    assert (marker.images, marker.width) == (sum(ROWS), WIDTH)
    assert [(s.shard, s.rows) for s in marker.shards] == list(enumerate(ROWS))
    for number, name in enumerate(SHARDS):
        table = pq.read_table(step.pca / name)
        assert table.schema.types == EMBEDDINGS_SCHEMA.types
        assert table.column("image").to_pylist() == [
            f"label {number}/{row}.jpg" for row in range(ROWS[number])
        ]
        assert set(table.column("label").to_pylist()) <= {f"label {number}"}
        assert all(len(row) == 5 for row in table.column("embedding").to_pylist())
        metadata = Storage(step.pca).parquet_metadata(name, (step.pca / name).stat().st_size)
        assert shard_info(metadata, EmbeddingsShard) == marker.shards[number]


def test_the_marker_is_what_the_run_returns(step: Step) -> None:
    marker = step.reduce(5)
    assert read_document(PcaMarker, Storage(step.pca)) == marker
    assert marker.request == "components=5"
    assert marker.features_digest == read_document(FeaturesMarker, Storage(step.features)).digest


def test_the_summary_tells_of_both_steps(step: Step) -> None:
    marker = step.reduce(5)
    summary = values_of(step.pca / "summary.json")
    model = pca.PcaModel.from_npz((step.pca / "model.npz").read_bytes(), "u")
    versions, seconds = summary.pop("versions"), summary.pop("seconds")
    assert summary == {
        "schema_version": SCHEMA_VERSION,
        "images": sum(ROWS) + 10,
        "features": sum(ROWS),
        "rejects": 10,
        "rejects_by_reason": {"empty": 10},
        "backbone": "mobilenet_v2",
        "weights": "random:0",
        "model_digest": "ab" * 32,
        "features_digest": marker.features_digest,
        "pca_digest": model.digest,
        "embedder_digest": None,
        "width": WIDTH,
        "request": "components=5",
        "components": 5,
        "variance_kept": marker.variance_kept,
        "explained_variance": model.explained_variance.tolist(),
        "explained_variance_ratio": model.explained_variance_ratio.tolist(),
    }
    assert seconds == {"extraction": 1.25, "pca": marker.seconds}
    nodes = {"python", "numpy", "pillow", "pyarrow", "obstore", "ai-edge-litert", "spark", "java"}
    assert versions.keys() == nodes
    assert versions["numpy"] == np.__version__


def test_the_same_request_again_touches_nothing(step: Step) -> None:
    first = step.reduce(5)
    before = written_at(step.pca)
    assert step.reduce(5) == first
    assert written_at(step.pca) == before


@pytest.mark.parametrize("request_", [{"components": 6}, {"variance": 0.5}])
def test_another_request_is_computed_anew(request_: dict, step: Step) -> None:
    before = step.reduce(5)
    marker = step.reduce(**request_)
    assert marker.components != before.components
    assert embeddings(step.pca).shape == (sum(ROWS), marker.components)
    assert names(step.pca) == WRITTEN


def refingerprint(step: Step) -> None:
    """Make the first features shard that of other inputs."""
    storage = Storage(step.features)
    table = read_shard(storage, SHARDS[0], FEATURES_SCHEMA)
    info = info_of(table, FeaturesShard)
    assert info is not None
    columns = {name: table.column(name) for name in FEATURES_SCHEMA.names}
    write_shard(storage, FEATURES_SCHEMA, columns, dataclasses.replace(info, fingerprint="other"))


def test_features_of_another_backbone_are_refused_and_no_longer_look_finished(step: Step) -> None:
    refingerprint(step)
    error = step.refused()
    assert f"file://{step.features}/{SHARDS[0]} is not the shard that the marker lists" in error
    assert "_SUCCESS of features was deleted" in error
    assert not (step.features / "_SUCCESS").exists()


def test_other_features_are_computed_anew(step: Step) -> None:
    first = step.reduce(5)
    refingerprint(step)
    edit_marker(step, lambda values: values["shards"][0].update(fingerprint="other"))
    again = step.reduce(5)
    assert again.features_digest != first.features_digest
    assert again.shards[0].fingerprint != first.shards[0].fingerprint
    assert again.shards[1] == first.shards[1]


@pytest.mark.parametrize("lost", [SHARDS[0], "model.npz", "summary.json", "_SUCCESS"])
def test_a_lost_object_is_written_again_and_equals_the_first(lost: str, step: Step) -> None:
    step.reduce(5)
    before = (step.pca / SHARDS[0]).read_bytes()
    arrays = np.load(step.pca / "model.npz")["components"]
    (step.pca / lost).unlink()
    step.reduce(5)
    assert names(step.pca) == WRITTEN
    assert (step.pca / SHARDS[0]).read_bytes() == before
    assert np.array_equal(np.load(step.pca / "model.npz")["components"], arrays)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summary.json", lambda content: content[:300]),
        ("summary.json", lambda content: content.replace(b'"pca_digest"', b'"pca_digesu"')),
        ("_SUCCESS", lambda content: content[:300]),
        ("_SUCCESS", lambda content: content.replace(b'"width": 24', b'"width": 25')),
        # The flag "encrypted" of the first file of the archive.
        ("model.npz", lambda content: content[:6] + bytes([content[6] ^ 1]) + content[7:]),
        ("model.npz", lambda content: content[: len(content) // 2]),
    ],
)
def test_a_damaged_document_is_written_again_and_equals_the_first(
    name: str, damage: Callable[[bytes], bytes], step: Step
) -> None:
    marker = step.reduce(5)
    before, summary = (step.pca / SHARDS[0]).read_bytes(), values_of(step.pca / "summary.json")
    whole = (step.pca / name).read_bytes()
    (step.pca / name).write_bytes(damage(whole))
    again = step.reduce(5)
    assert dataclasses.replace(again, seconds=marker.seconds) == marker
    assert read_document(PcaMarker, Storage(step.pca)) == again
    assert values_of(step.pca / "summary.json") == summary | {
        "seconds": {**summary["seconds"], "pca": again.seconds}
    }
    assert (step.pca / SHARDS[0]).read_bytes() == before


@pytest.mark.parametrize(
    "values", [{"variance_kept": 0.5}, {"width": 25}, {"images": 1}, {"components": 4}], ids=str
)
def test_a_marker_with_values_that_do_not_follow_from_its_output_is_written_again(
    values: dict[str, Any], step: Step
) -> None:
    first = step.reduce(5)
    change_values(step.pca / "_SUCCESS", **values)
    again = step.reduce(5)
    assert dataclasses.replace(again, seconds=first.seconds) == first


def test_a_damaged_marker_of_the_features_is_withdrawn(step: Step) -> None:
    file = step.features / "_SUCCESS"
    file.write_bytes(file.read_bytes().replace(b'"rejects": 10', b'"rejects": 11'))
    assert "is not a FeaturesMarker as it was written" in step.refused()
    assert not file.exists()


def test_shards_of_an_earlier_plan_are_deleted_and_other_files_stay(step: Step) -> None:
    others = [step.pca / "notes.txt", step.pca / "old" / "shard-00077.parquet"]
    for path in [step.pca / "shard-00009.parquet", *others]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    step.reduce(5)
    assert names(step.pca) == WRITTEN | {"notes.txt", "old"}
    assert all(path.exists() for path in others)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[3].pop(), f"row 3 has {WIDTH - 1} features, expected {WIDTH}"),
        (lambda rows: rows.__setitem__(0, []), f"row 0 has 0 features, expected {WIDTH}"),
        (lambda rows: rows[2].__setitem__(5, float("nan")), "row 2 has NaN or infinity"),
        (lambda rows: rows[7].__setitem__(0, float("inf")), "row 7 has NaN or infinity"),
        (lambda rows: rows[4].__setitem__(1, None), "row 4 has NaN or infinity"),
        (lambda rows: rows.pop(), "has 44 rows, the marker says 45"),
        (lambda rows: rows.append(rows[0]), "has 46 rows, the marker says 45"),
        (lambda rows: rows.clear(), "has 0 rows, the marker says 45"),
    ],
    ids=["narrow", "empty row", "nan", "infinity", "null", "row lost", "row more", "all lost"],
)
def test_a_shard_that_is_not_what_the_marker_lists_is_refused_by_name(
    change: Callable, message: str, step: Step
) -> None:
    step.reduce(4)  # finished before: its marker must not survive the failure
    edit_features(step.features / SHARDS[3], change)
    refusal = step.refused()
    assert f"file://{step.features}/{SHARDS[3]}" in refusal
    assert message in refusal


def test_rows_of_another_width_are_refused_even_if_their_total_fits(step: Step) -> None:
    def shift(rows: list[list[float]]) -> None:
        rows[1].append(rows[0].pop())

    edit_features(step.features / SHARDS[0], shift)
    assert f"row 0 has {WIDTH - 1} features" in step.refused()


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("damage", ["deleted", "cut", "text"])
def test_a_lost_or_damaged_shard_is_refused_by_name(damage: str, number: int, step: Step) -> None:
    file = step.features / SHARDS[number]
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes({"cut": file.read_bytes()[:-30], "text": b"text"}[damage])
    assert f"file://{file}" in step.refused()


def test_unfinished_features_are_refused(step: Step) -> None:
    (step.features / "_SUCCESS").unlink()
    assert f"file://{step.features} has no _SUCCESS" in step.refused()
    assert not step.pca.exists()


def test_a_marker_of_another_stage_is_refused(step: Step) -> None:
    step.reduce(5)
    with pytest.raises(JobError, match="is not a FeaturesMarker"):
        reduction.run(step.spark, str(step.pca), str(step.root / "pca2"), 2)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"components": 0}, "0 components asked for"),
        ({"components": WIDTH + 1}, f"{WIDTH + 1} components asked for, but 96 images of {WIDTH} features"),
        ({"components": None, "variance": 1.5}, "between 0 and 1, not 1.5"),
        ({"components": None}, "either a number of components or a share"),
        ({"components": 2, "variance": 0.5}, "either a number of components or a share"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_written(
    request_: dict, message: str, step: Step
) -> None:
    assert message in step.refused(**request_)
    assert not step.pca.exists()


def test_features_without_an_image_are_refused(step: Step) -> None:
    edit_marker(step, lambda values: values.update(features=0))
    assert "at least 2 images with features, there are 0" in step.refused()


def test_images_that_all_have_the_same_features_are_refused(step: Step) -> None:
    for name in SHARDS:
        edit_features(
            step.features / name, lambda rows: rows.__setitem__(slice(None), [[0.1] * WIDTH] * len(rows))
        )
    assert "no variance" in step.refused()


def test_output_over_the_features_is_refused_and_they_stay(step: Step) -> None:
    before = written_at(step.features)
    with pytest.raises(JobError, match="same prefix"):
        reduction.run(step.spark, str(step.features), f"file://{step.features}/", 5)
    assert written_at(step.features) == before


def test_moments_of_a_group_are_those_of_its_shards_together(step: Step) -> None:
    shards = read_document(FeaturesMarker, Storage(step.features)).shards
    job = over_the_wire(ReductionJob(str(step.features), str(step.pca), WIDTH))
    found = reduction.moments_of([shards[0], shards[3]], job)
    assert isinstance(found, pca.Moments)
    expected = pca.Moments.of(np.concatenate([features_of(0), features_of(3)]))
    assert found.rows == 75
    np.testing.assert_allclose(found.scatter, expected.scatter, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shards", "rows", "lengths"),
    [
        (1, 10, [1]),
        (3, 9_000_000, [1, 1, 1]),
        (50, 50_000, [12, 13, 12, 13]),
        (4, 0, [1, 1, 1, 1]),
        (250, 250_000, [25] * 10),
        (10, 100_001, [2] * 5),
    ],
)
def test_shards_are_grouped_by_rows_and_not_by_workers(shards: int, rows: int, lengths: list[int]) -> None:
    made = [FeaturesShard(n, 1, 1, {}, "") for n in range(shards)]
    groups = reduction._groups(made, rows)
    assert [len(group) for group in groups] == lengths
    assert [shard for group in groups for shard in group] == made


def test_the_tree_merges_any_number_of_parts_as_one_pass_does(
    spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "_FAN_IN", 3)
    whole = pca.Moments.of(FEATURES)
    for count in range(1, 29):
        parts = [pca.Moments.of(part) for part in np.array_split(FEATURES, count)]
        merged = reduction.merged(spark.sparkContext.parallelize(list(enumerate(parts)), count), count)
        assert isinstance(merged, pca.Moments)
        assert merged.rows == whole.rows
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
        np.testing.assert_allclose(merged.scatter, whole.scatter, atol=1e-12 * np.trace(whole.scatter))


@pytest.mark.parametrize("fan_in", [2, 8])
def test_moments_are_merged_in_order_of_their_places_in_any_order_of_arrival(
    fan_in: int, spark: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reduction, "_FAN_IN", fan_in)
    parts = list(enumerate(pca.Moments.of(part) for part in np.array_split(FEATURES, 7)))
    one, other = (
        reduction.merged(spark.sparkContext.parallelize(order, 7), 7) for order in (parts, parts[::-1])
    )
    assert isinstance(one, pca.Moments)
    assert isinstance(other, pca.Moments)
    assert np.array_equal(one.scatter, other.scatter)
    assert np.array_equal(one.mean, other.mean)


def test_the_first_refusal_wins_over_all_moments(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduction, "_FAN_IN", 2)
    moments = pca.Moments.of(features_of(0))
    parts = [moments, moments, moments, Refused("first"), moments, Refused("second")]
    assert reduction.merged(spark.sparkContext.parallelize(list(enumerate(parts)), 6), 6) == Refused("first")


@pytest.mark.parametrize("workers", [1, 5])
def test_the_same_bytes_are_written_on_any_number_of_workers(
    workers: int, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> dict[str, bytes]:
        return {name: (step.pca / name).read_bytes() for name in [*SHARDS, "model.npz"]}

    step.reduce(5)
    before = written()
    shutil.rmtree(step.pca)
    monkeypatch.setattr(step.spark.sparkContext, "defaultParallelism", workers)
    step.reduce(5)
    after = written()
    # A zip file tells when it was written.
    first, second = (pca.PcaModel.from_npz(files.pop("model.npz"), "u") for files in (before, after))
    assert first.digest == second.digest
    assert before == after


def test_a_worker_imports_neither_pandas_nor_what_only_the_driver_needs(step: Step) -> None:
    """pandas is installed where the benchmarks run; importing it takes longer than the work."""
    code = f"""
import sys
from image_features import pca, reduction
from image_features.contract import FeaturesMarker
from image_features.documents import read_document
from image_features.storage import Storage

features, output = {str(step.features)!r}, {str(step.pca)!r}
shards = read_document(FeaturesMarker, Storage(features)).shards
job = reduction.ReductionJob(features, output, {WIDTH})
model = pca.fit(reduction.moments_of([shards[0], shards[3]], job), 3)
Storage(output, create=True)
assert [done.rows for done in reduction.project(iter(shards), job, model)] == {list(ROWS)}
print([m for m in ("pandas", "pyarrow.compute", "PIL", "ai_edge_litert", "pyspark") if m in sys.modules])
"""
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_a_worker_goes_on_projecting_after_a_shard_that_fails(step: Step) -> None:
    shards = read_document(FeaturesMarker, Storage(step.features)).shards
    step.pca.mkdir()
    (step.features / SHARDS[0]).unlink()
    model = pca.fit(pca.Moments.of(FEATURES), 3)
    job = ReductionJob(str(step.features), str(step.pca), WIDTH)
    first, second = over_the_wire(list(reduction.project(iter([shards[0], shards[3]]), job, model)))
    assert SHARDS[0] in first.error
    assert (second.shard, second.rows) == (3, 45)
    table = pq.read_table(io.BytesIO((step.pca / SHARDS[3]).read_bytes()))
    found = np.array(table.column("embedding").to_pylist(), np.float32)
    assert np.array_equal(found, model.transform(features_of(3)))


def test_both_steps_in_a_row_equal_scikit_learn_on_the_backbones_features(run: Run) -> None:
    run.extract()
    reduction.run(run.spark, str(run.features), str(run.root / "pca"), 10)
    shards = [pq.read_table(path) for path in sorted(run.features.glob("shard-*"))]
    features = np.array([row for table in shards for row in table.column("features").to_pylist()])
    found = np.array(
        [
            row
            for path in sorted((run.root / "pca").glob("shard-*"))
            for row in pq.read_table(path).column("embedding").to_pylist()
        ]
    )
    expected = PCA(10, svd_solver="full").fit_transform(features)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@dataclasses.dataclass(frozen=True)
class ImageStep:
    """The PCA step over the features that a backbone made of images, with embed.tflite."""

    run: Run

    @property
    def pca(self) -> Path:
        return self.run.root / "pca"

    @property
    def embedder(self) -> Path:
        return self.pca / "embed.tflite"

    def reduce(self, components: int = 5, model: Path | None = None) -> PcaMarker:
        return reduction.run(
            self.run.spark, str(self.run.features), str(self.pca), components, model=model and str(model)
        )


@pytest.fixture(scope="module")
def extracted(
    packed: Path, random_backbone: Path, tmp_path_factory: pytest.TempPathFactory, spark: Any
) -> Path:
    """Features of the packed sample."""
    root = tmp_path_factory.mktemp("extracted")
    shutil.copytree(packed, root / "sample")
    Run(root, random_backbone, spark).extract()
    return root / "features"


@pytest.fixture
def images(extracted: Path, random_backbone: Path, tmp_path: Path, spark: Any) -> ImageStep:
    shutil.copytree(extracted, tmp_path / "features")
    return ImageStep(Run(tmp_path, random_backbone, spark))


def test_with_a_model_the_embedder_is_written_and_its_digest_is_in_the_marker(images: ImageStep) -> None:
    marker = images.reduce(model=images.run.model)
    digest = hashlib.sha256(images.embedder.read_bytes()).hexdigest()
    assert marker.embedder_digest == digest
    assert json.loads((images.pca / "summary.json").read_text())["embedder_digest"] == digest
    assert Embedder(images.embedder.read_bytes(), "u").size == 224
    before = written_at(images.pca)
    assert images.reduce(model=images.run.model) == marker
    assert written_at(images.pca) == before


@pytest.mark.parametrize("damage", ["deleted", "one byte", "empty"])
def test_a_lost_or_damaged_embedder_is_written_again_and_equals_the_first(
    damage: str, images: ImageStep
) -> None:
    images.reduce(model=images.run.model)
    whole = images.embedder.read_bytes()
    if damage == "deleted":
        images.embedder.unlink()
    else:
        images.embedder.write_bytes({"one byte": b"x" + whole[1:], "empty": b""}[damage])
    images.reduce(model=images.run.model)
    assert images.embedder.read_bytes() == whole


def test_an_embedder_requested_later_is_added_and_an_intact_one_is_kept(images: ImageStep) -> None:
    assert images.reduce().embedder_digest is None
    assert not images.embedder.exists()
    later = images.reduce(model=images.run.model)
    assert images.embedder.exists()
    assert images.reduce() == later  # more than was asked for, and still right


def test_an_embedder_of_another_pca_does_not_stay(images: ImageStep) -> None:
    images.reduce(5, images.run.model)
    assert images.reduce(6).embedder_digest is None
    assert not images.embedder.exists()


@pytest.mark.parametrize("stands", [False, True])
def test_a_model_that_did_not_make_the_features_is_refused_with_both_digests(
    stands: bool, images: ImageStep, tmp_path: Path
) -> None:
    if stands:
        images.reduce(model=images.run.model)
    other = Path(shutil.copytree(images.run.model, tmp_path / "other"))
    digest = values_of(other / "model.json")["digest"]
    change_values(other / "model.json", digest="cd" * 32)
    with pytest.raises(JobError) as caught:
        images.reduce(model=other)
    assert f"file://{other} is the backbone {'cd' * 32}, but " in str(caught.value)
    assert f"features was made with {digest}" in str(caught.value)
    assert images.pca.exists() == stands


def test_a_damaged_backbone_leaves_nothing_that_looks_finished(images: ImageStep, tmp_path: Path) -> None:
    other = Path(shutil.copytree(images.run.model, tmp_path / "other"))
    (other / "backbone.tflite").write_bytes(b"damaged")
    with pytest.raises(JobError, match=r"backbone\.tflite has SHA-256"):
        images.reduce(model=other)
    assert not (images.pca / "_SUCCESS").exists()


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped"])
@pytest.mark.parametrize("name", [SHARDS[3], "model.npz"])
def test_a_damaged_pca_is_computed_again_although_it_has_a_marker(damage: str, name: str, step: Step) -> None:
    step.reduce(5)
    file = step.pca / name
    whole = file.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    file.unlink() if damage == "deleted" else file.write_bytes(whole[:-30] if damage == "cut" else flipped)
    step.reduce(5)
    if name in SHARDS:
        assert file.read_bytes() == whole
    else:  # an archive has the time in it
        found, expected = np.load(file), np.load(io.BytesIO(whole))
        assert all(np.array_equal(found[array], expected[array]) for array in expected)
