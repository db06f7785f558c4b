"""Extraction over shards: counts, rejects, and reruns that compute what is missing and no more."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from image_features import extract_worker, extraction, versions
from image_features.contract import (
    FEATURES_SCHEMA,
    REJECTS_SCHEMA,
    FeaturesMarker,
    FeaturesShard,
    SampleMarker,
    content_digest,
)
from image_features.documents import read_document
from image_features.errors import Damaged, JobError
from image_features.extract_worker import ExtractionJob
from image_features.inference import Backbone, read_backbone
from image_features.resume import ShardTask
from image_features.shards import parquet_bytes, shard_info
from image_features.storage import Storage
from support.documents import change_values
from support.runs import BROKEN, Run, pack
from support.spark import over_the_wire

SHARDS = [f"shard-{n:05d}.parquet" for n in range(4)]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def marker_of(run: Run) -> FeaturesMarker:
    return read_document(FeaturesMarker, Storage(run.features))


def edit_table(file: Path, change: Callable[[dict[str, list]], None]) -> None:
    """Rewrite a shard with other values; its schema and its metadata stay."""
    table = pq.read_table(file)
    columns = table.to_pydict()
    change(columns)
    file.write_bytes(parquet_bytes(pa.table(columns, schema=table.schema)))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("shard-*")) for row in pq.read_table(path).to_pylist()]


def test_every_image_has_features_or_a_reject_with_its_reason(run: Run) -> None:
    marker = run.extract()
    sample = {row["image"]: row for row in rows(run.sample)}
    features = {row["image"]: row for row in rows(run.features)}
    rejects = {row["image"]: row for row in rows(run.rejects)}
    assert features.keys() | rejects.keys() == sample.keys()
    assert {image: row["reason"] for image, row in rejects.items()} == BROKEN
    assert all(row["detail"] for row in rejects.values())
    for image, row in (features | rejects).items():
        assert (row["label"], row["sha256"]) == (sample[image]["label"], sample[image]["sha256"])
    assert (marker.images, marker.features, marker.rejects) == (28, 24, 4)
    assert marker.rejects_by_reason == {"empty": 1, "not-an-image": 2, "truncated": 1}
    assert marker.computed_shards == 4
    assert [(s.shard, s.images, s.features) for s in marker.shards] == [
        (0, 7, 6),
        (1, 7, 7),
        (2, 7, 7),
        (3, 7, 4),
    ]


def test_features_are_those_of_the_backbone_in_the_samples_order(run: Run) -> None:
    run.extract()
    spec, model = read_backbone(str(run.model))
    sample = [row for row in rows(run.sample) if row["image"] not in BROKEN]
    found = rows(run.features)
    expected, _ = Backbone(model, spec).features([row["content"] for row in sample])
    assert [row["image"] for row in found] == [row["image"] for row in sample]
    assert np.array_equal(np.array([row["features"] for row in found], np.float32), expected)


def test_one_object_a_shard_of_the_contracts_schema_and_with_its_counts(run: Run) -> None:
    marker = run.extract()
    assert contents(run.features).keys() == {*SHARDS, "_SUCCESS"}
    assert contents(run.rejects).keys() == {SHARDS[0], SHARDS[3]}
    for name, info in zip(SHARDS, marker.shards, strict=True):
        storage = Storage(run.features)
        assert pq.read_schema(run.features / name).types == FEATURES_SCHEMA.types
        size = (run.features / name).stat().st_size
        assert shard_info(storage.parquet_metadata(name, size), FeaturesShard) == info
    assert pq.read_schema(run.rejects / SHARDS[0]).types == REJECTS_SCHEMA.types


def test_the_marker_is_what_the_run_returns_and_names_the_model(run: Run) -> None:
    marker = run.extract()
    assert marker_of(run) == marker
    spec, _ = read_backbone(str(run.model))
    assert (marker.width, marker.model_digest) == (spec.width, spec.digest)
    assert (marker.backbone, marker.weights) == ("mobilenet_v2", "random:0")


def test_rejects_are_written_to_the_requested_prefix(run: Run) -> None:
    run.extract(rejects=str(run.root / "bad images"))
    assert contents(run.root / "bad images").keys() == {SHARDS[0], SHARDS[3]}
    assert not run.rejects.exists()


def test_file_uris_and_plain_paths_give_the_same(run: Run) -> None:
    run.extract()
    expected = contents(run.features)
    extraction.run(
        run.spark, f"file://{run.sample}", f"file://{run.model}/", f"file://{run.root}/again/features/"
    )
    found = contents(run.root / "again" / "features")
    assert {name: found[name] for name in SHARDS} == {name: expected[name] for name in SHARDS}
    assert contents(run.root / "again" / "rejects") == contents(run.rejects)


def test_a_rerun_computes_nothing_and_touches_nothing(run: Run) -> None:
    first = run.extract()
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    assert run.extract() == first
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before


def test_without_the_marker_finished_shards_are_reused_unchanged(run: Run) -> None:
    first = run.extract()
    before = contents(run.features)
    (run.features / "_SUCCESS").unlink()
    marker = run.extract()
    assert marker.computed_shards == 0
    assert (marker.shards, marker.digest) == (first.shards, first.digest)
    after = contents(run.features)
    assert all(after[name] == before[name] for name in SHARDS)


@pytest.mark.parametrize("marker_stands", [True, False])
@pytest.mark.parametrize("damage", ["deleted", "cut", "empty", "text", "flipped"])
def test_a_lost_or_damaged_shard_is_computed_again_alone_and_equals_the_first(
    damage: str, marker_stands: bool, run: Run
) -> None:
    run.extract()
    before = contents(run.features)
    written = {name: (run.features / name).stat().st_mtime_ns for name in SHARDS}
    file = run.features / SHARDS[2]
    whole = file.read_bytes()
    file.unlink()
    if damage != "deleted":
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]  # the footer is whole
        damaged = {"cut": whole[:-100], "empty": b"", "text": b"text" * 100, "flipped": flipped}
        file.write_bytes(damaged[damage])
    if not marker_stands:
        (run.features / "_SUCCESS").unlink()
    assert run.extract().computed_shards == 1
    after = contents(run.features)
    assert all(after[name] == before[name] for name in SHARDS)
    changed = [name for name in SHARDS if (run.features / name).stat().st_mtime_ns != written[name]]
    assert changed == [SHARDS[2]]


@pytest.mark.parametrize(
    "values",
    [
        {"model_digest": "0" * 64},
        {"backbone": "resnet50", "weights": "imagenet"},
        {"preprocessing": "caffe 224 1"},
        {"runtime": "another"},
        {"images": 1},
        {"features": 1},
        {"rejects_by_reason": {}},
        {"reused": 7},
    ],
)
def test_a_marker_with_values_that_do_not_follow_from_its_shards_is_written_again(
    values: dict[str, Any], run: Run
) -> None:
    first = run.extract()
    change_values(run.features / "_SUCCESS", **values)
    again = run.extract()
    assert again == dataclasses.replace(first, computed_shards=0, seconds=again.seconds)
    assert read_document(FeaturesMarker, Storage(run.features)) == again


def test_a_damaged_marker_of_the_sample_is_withdrawn(run: Run) -> None:
    file = run.sample / "_SUCCESS"
    file.write_bytes(file.read_bytes().replace(b'"seed"', b'"seer"'))
    with pytest.raises(Damaged, match=r"is not a SampleMarker.*_SUCCESS of sample was deleted"):
        run.extract()
    assert not file.exists()


@pytest.mark.parametrize("marker_stands", [True, False])
def test_lost_rejects_are_written_again(marker_stands: bool, run: Run) -> None:
    run.extract()
    before = contents(run.rejects)
    (run.rejects / SHARDS[3]).unlink()
    if not marker_stands:
        (run.features / "_SUCCESS").unlink()
    assert run.extract().computed_shards == 1
    assert contents(run.rejects) == before


def test_another_model_computes_all_shards_anew(run: Run, tmp_path: Path) -> None:
    run.extract()
    before = contents(run.features)
    model = shutil.copytree(run.model, tmp_path / "model")
    changed = (model / "backbone.tflite").read_bytes() + b"\0"  # behind the end: another digest only
    (model / "backbone.tflite").write_bytes(changed)
    change_values(model / "model.json", digest=hashlib.sha256(changed).hexdigest())
    marker = dataclasses.replace(run, model=model).extract()
    assert marker.computed_shards == 4
    assert all(contents(run.features)[name] != before[name] for name in SHARDS)
    assert pq.read_table(run.features / SHARDS[0]) == pq.read_table(io.BytesIO(before[SHARDS[0]]))


def test_another_preprocessing_computes_all_shards_anew_and_gives_other_features(
    run: Run, tmp_path: Path
) -> None:
    run.extract()
    before = np.array([row["features"] for row in rows(run.features)])
    model = shutil.copytree(run.model, tmp_path / "model")
    change_values(model / "model.json", preprocessing="caffe")
    assert dataclasses.replace(run, model=model).extract().computed_shards == 4
    after = np.array([row["features"] for row in rows(run.features)])
    assert not (after == before).all(axis=1).any()


def test_another_pixel_limit_computes_all_shards_anew_and_back_removes_stale_rejects(run: Run) -> None:
    run.extract()
    rejects = contents(run.rejects)
    strict = run.extract(max_pixels=100 * 100 - 1)
    assert (strict.computed_shards, strict.features) == (4, 0)
    assert strict.rejects_by_reason["too-many-pixels"] == 25  # the cut one has a header
    assert contents(run.rejects).keys() == {*SHARDS}
    assert run.extract().computed_shards == 4
    assert contents(run.rejects) == rejects


def test_a_sample_whose_images_are_all_rejected_gives_empty_shards(run: Run) -> None:
    marker = run.extract(max_pixels=1)
    assert (marker.images, marker.features, marker.rejects) == (28, 0, 28)
    assert [pq.read_table(run.features / name).num_rows for name in SHARDS] == [0] * 4
    assert pq.read_schema(run.features / SHARDS[0]).types == FEATURES_SCHEMA.types


def test_shards_of_an_earlier_plan_are_deleted(run: Run, drawn_folder: Path) -> None:
    run.extract()
    shutil.rmtree(run.sample)
    small = run.root / "small" / "Banana"
    small.mkdir(parents=True)
    shutil.copy(drawn_folder / "Banana" / "000.jpg", small)
    pack(small.parent, run.sample)
    marker = run.extract()
    assert (marker.images, marker.rejects) == (1, 0)
    assert contents(run.features).keys() == {SHARDS[0], "_SUCCESS"}
    assert contents(run.rejects) == {}


def test_files_that_are_no_shards_of_this_prefix_stay(run: Run) -> None:
    others = [run.features / "notes.txt", run.features / "old" / "shard-00099.parquet"]
    others += [run.root / "old" / "rejects" / "shard-00001.parquet", run.rejects / "notes.txt"]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    run.extract()
    assert all(path.read_bytes() == b"x" for path in others)


def test_rejects_above_the_other_prefixes_delete_nothing_of_theirs(run: Run) -> None:
    before = contents(run.sample)
    marker = run.extract(rejects=str(run.root))
    assert contents(run.sample) == before
    assert contents(run.features).keys() == {*SHARDS, "_SUCCESS"}
    assert run.extract(rejects=str(run.root)) == marker


def test_a_failure_in_the_middle_leaves_no_marker_and_a_rerun_computes_the_rest(run: Run) -> None:
    kept, marker = (run.sample / SHARDS[2]).read_bytes(), (run.sample / "_SUCCESS").read_bytes()
    (run.sample / SHARDS[2]).unlink()
    with pytest.raises(JobError, match="1 of 4 shards cannot be extracted") as caught:
        run.extract()
    assert f"file://{run.sample}/{SHARDS[2]}" in str(caught.value)
    assert "_SUCCESS of sample was deleted" in str(caught.value)
    assert not (run.sample / "_SUCCESS").exists(), "a sample that lacks a shard looks finished"
    assert contents(run.features).keys() == {SHARDS[0], SHARDS[1], SHARDS[3]}
    (run.sample / SHARDS[2]).write_bytes(kept)
    (run.sample / "_SUCCESS").write_bytes(marker)
    assert run.extract().computed_shards == 1
    assert contents(run.features).keys() == {*SHARDS, "_SUCCESS"}


def test_a_failure_deletes_the_marker_of_an_earlier_attempt(run: Run) -> None:
    run.extract()
    (run.sample / SHARDS[1]).unlink()
    with pytest.raises(JobError):
        run.extract(max_pixels=10**6)
    assert not (run.features / "_SUCCESS").exists()


def test_a_shard_without_features_is_unfinished_even_if_it_has_rejects(run: Run) -> None:
    """An attempt can end between the two writes; the rejects come first."""
    run.extract()
    (run.features / SHARDS[3]).unlink()
    edit_table(run.rejects / SHARDS[3], lambda columns: columns.update(reason=["stale"] * 3))
    run.extract()
    assert {row["reason"] for row in rows(run.rejects)} == {"truncated", "empty", "not-an-image"}


@pytest.mark.parametrize("column", ["image", "label", "sha256", "content"])
def test_a_tampered_sample_shard_is_refused_by_name(column: str, run: Run) -> None:
    def swap(columns: dict[str, list]) -> None:
        values = columns[column]
        values[0] = values[0][:-1] + (b"?" if column == "content" else "?")

    edit_table(run.sample / SHARDS[1], swap)
    with pytest.raises(JobError, match="is not the shard that the sample's marker lists") as caught:
        run.extract()
    assert f"file://{run.sample}/{SHARDS[1]}" in str(caught.value)
    assert not (run.features / "_SUCCESS").exists()
    assert not (run.features / SHARDS[1]).exists()


def test_sample_shards_in_each_others_place_are_refused(run: Run) -> None:
    (run.sample / SHARDS[0]).rename(run.root / "swap")
    (run.sample / SHARDS[1]).rename(run.sample / SHARDS[0])
    (run.root / "swap").rename(run.sample / SHARDS[1])
    with pytest.raises(JobError, match="2 of 4 shards"):
        run.extract()


def test_a_cut_sample_shard_is_refused_by_name(run: Run) -> None:
    file = run.sample / SHARDS[1]
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(JobError, match="cannot be read as parquet") as caught:
        run.extract()
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("output", "rejects"),
    [
        ("sample", None),
        ("features", "features"),
        ("features", "sample"),
        ("rejects", None),
        ("features", "./sample/"),
    ],
)
def test_prefixes_that_are_the_same_are_refused_before_anything_is_written(
    output: str, rejects: str | None, run: Run
) -> None:
    before = contents(run.sample)
    with pytest.raises(JobError, match="three different prefixes"):
        extraction.run(
            run.spark,
            str(run.sample),
            str(run.model),
            str(run.root / output),
            f"{run.root}/{rejects}" if rejects else None,
        )
    assert contents(run.sample) == before
    assert {path.name for path in run.root.iterdir()} == {"sample"}


def test_a_bucket_as_output_needs_a_place_for_the_rejects(run: Run) -> None:
    """There is no prefix beside a whole bucket."""
    with pytest.raises(JobError, match=r"s3://bucket .*--rejects"):
        extraction.run(run.spark, str(run.sample), str(run.model), "s3://bucket")


def test_an_unfinished_sample_is_refused(run: Run) -> None:
    (run.sample / "_SUCCESS").unlink()
    with pytest.raises(JobError, match=f"file://{run.sample} has no _SUCCESS"):
        run.extract()
    assert not run.features.exists()


def test_weights_that_give_no_numbers_are_refused_and_the_image_named(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = Backbone.features

    def with_a_nan(self: Backbone, *arguments: Any) -> Any:
        features, rejected = computed(self, *arguments)
        features[2, 5] = np.nan
        return features, rejected

    monkeypatch.setattr(Backbone, "features", with_a_nan)
    images = [row["image"] for row in rows(run.sample) if row["image"] not in BROKEN]
    with pytest.raises(JobError, match="NaN or infinity for image") as caught:
        run.extract()
    assert repr(images[2]) in str(caught.value)


def test_a_worker_goes_on_after_a_shard_that_fails(run: Run) -> None:
    plan = read_document(SampleMarker, Storage(run.sample))
    run.features.mkdir()
    run.rejects.mkdir()
    spec, model = read_backbone(str(run.model))
    job = over_the_wire(
        ExtractionJob(str(run.sample), plan, str(run.features), str(run.rejects), spec, model)
    )
    (run.sample / SHARDS[0]).unlink()
    tasks = [ShardTask(shard) for shard in plan.shards[:2]]
    first, second = over_the_wire(list(extract_worker.run_tasks(iter([tasks]), job)))
    assert SHARDS[0] in first.error
    assert (first.done, first.computed) == (None, False)
    assert (second.error, second.computed, second.done.shard) == (None, True, 1)


def test_a_fingerprint_holds_all_that_decides_a_shards_features(run: Run) -> None:
    plan = read_document(SampleMarker, Storage(run.sample))
    shard = plan.shards[0]
    spec, model = read_backbone(str(run.model))
    job = ExtractionJob("/s", plan, "/o", "/r", spec, model)
    others = [
        (dataclasses.replace(job, max_pixels=1), shard),
        (dataclasses.replace(job, runtime="pillow 1.0, ai-edge-litert 1.0"), shard),
        (dataclasses.replace(job, spec=dataclasses.replace(spec, digest="ab")), shard),
        (dataclasses.replace(job, spec=dataclasses.replace(spec, preprocessing="caffe")), shard),
        (dataclasses.replace(job, spec=dataclasses.replace(spec, input_size=192)), shard),
        (job, dataclasses.replace(shard, digest=content_digest([], [], []))),
    ]
    prints = {job.fingerprint(shard), *(other.fingerprint(one) for other, one in others)}
    assert len(prints) == 7
    elsewhere = dataclasses.replace(job, sample="/x", output="/y", rejects="/z")
    assert elsewhere.fingerprint(shard) == job.fingerprint(shard)


def test_nodes_with_another_decoder_compute_anew(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a resumed run would contain pixels of two decoders."""
    first = run.extract()
    assert first.runtime == versions.deciding()
    assert run.extract() == first, "nothing changed"
    monkeypatch.setattr(versions, "_version", lambda package: "99.0")
    again = run.extract()
    assert again.computed_shards == len(first.shards)
    assert again.runtime.startswith("pillow 99.0, ai-edge-litert 99.0, code ")
    assert again.digest != first.digest


def test_odd_image_names_and_labels_arrive_unchanged(run: Run, drawn: list[bytes]) -> None:
    names = ["Äpfel & Co/a #1%20+?.jpg", "日本/りんご 🍎.jpg", "two words/x.y.JPG"]
    for name, content in zip(names, drawn, strict=False):
        path = run.root / "source" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    shutil.rmtree(run.sample)
    pack(run.root / "source", run.sample)
    run.extract()
    assert sorted(row["image"] for row in rows(run.features)) == sorted(names)
    assert {row["label"] for row in rows(run.features)} == {name.partition("/")[0] for name in names}


def test_conversions_are_counted_in_the_shards_and_the_marker(run: Run, drawn: list[bytes]) -> None:
    folder = run.root / "source" / "label"
    folder.mkdir(parents=True)
    deep = np.full((40, 40), 4095, np.uint16)
    Image.fromarray(np.zeros((40, 40, 4), np.uint8)).save(folder / "clear.png")
    Image.fromarray(deep << 4).save(folder / "deep.png")
    Image.fromarray(deep).save(folder / "twelve.tif")
    (folder / "plain.jpg").write_bytes(drawn[0])
    shutil.rmtree(run.sample)
    pack(run.root / "source", run.sample)
    marker = run.extract()
    expected = {"assumed-12-bit": 1, "from-16-bit": 1, "transparent": 1}
    assert marker.conversions == expected
    assert sum((Counter(shard.conversions) for shard in marker.shards), Counter()) == expected
    assert run.extract() == marker, "a rerun keeps shards and counts"
