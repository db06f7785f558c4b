"""A finished run passes; each kind of damage is detected and named."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.checks.output import check_run
from image_features.contract import EMBEDDER, LEFT_OUT_SCHEMA, MARKER, PCA_MODEL, RunLayout
from image_features.embedder import fuse
from image_features.errors import JobError, Stage
from image_features.inference import read_backbone
from image_features.pca import PcaModel
from support.documents import change_values


def failure(run: Path) -> str:
    with pytest.raises(JobError) as caught:
        check_run(RunLayout(str(run)))
    return str(caught.value)


def shards(run: Path, stage: str) -> list[Path]:
    return sorted((run / stage).glob("shard-*.parquet"))


def rewrite(shard: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a shard's rows; its metadata stays, as if it had been written so."""
    table = pq.read_table(shard)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), shard)


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    def changed(table: pa.Table) -> pa.Table:
        at, field = table.schema.get_field_index(name), table.schema.field(name)
        return table.set_column(at, field, pa.array(change(table.column(name).to_pylist()), field.type))

    return changed


def mark(run: Path, stage: str, **values: Any) -> None:
    """Change values of a stage's marker, as if a faulty stage had written them."""
    change_values(run / stage / MARKER, **values)


def marker(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / MARKER).read_text())


def change_model(run: Path, **arrays: Any) -> None:
    path = run / "pca" / PCA_MODEL
    with np.load(path) as saved:
        np.savez(path, **{**saved, **arrays})


def model_of(run: Path) -> PcaModel:
    return PcaModel.from_npz((run / "pca" / PCA_MODEL).read_bytes(), "model")


def features_of(run: Path) -> np.ndarray:
    rows = [row for shard in shards(run, "features") for row in pq.read_table(shard)["features"].to_pylist()]
    return np.array(rows, np.float32)


def test_a_finished_run_passes_with_its_figures(standing_run: Path) -> None:
    report = check_run(RunLayout(str(standing_run)))
    assert (report.images, report.features, report.rejects) == (50, 48, 2)
    assert report.rejects_by_reason == {"empty": 1, "not-an-image": 1}
    assert (report.labels, report.width, report.components) == (12, 1280, 8)
    assert report.shards == len(shards(standing_run, "features")) >= 4
    assert report.variance_kept == pytest.approx(expected_variance(standing_run), rel=1e-6)
    assert len(report.checks) == 7
    assert report.checks[0] == "every file of the source is an image of the manifest or left out (50)"
    assert report.checks[-1] == "embed.tflite gives 8 images of the sample their embeddings"


def expected_variance(run: Path) -> float:
    """Share of 8 components, by another way than the pipeline's: singular values."""
    features = features_of(run).astype(np.float64)
    squares = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    return float(squares[:8].sum() / squares.sum())


# Shards that are missing, damaged or too many


@pytest.mark.parametrize("stage", ["features", "pca", "rejects"])
def test_a_missing_shard(run: Path, stage: str) -> None:
    gone = shards(run, stage)[-1]
    gone.unlink()
    assert f"file://{gone} is missing" in failure(run)


@pytest.mark.parametrize("stage", ["features", "pca", "rejects"])
def test_a_truncated_shard(run: Path, stage: str) -> None:
    cut = shards(run, stage)[0]
    cut.write_bytes(cut.read_bytes()[:-20])
    assert f"file://{cut} cannot be read as parquet" in failure(run)


@pytest.mark.parametrize("stage", ["features", "pca", "rejects"])
@pytest.mark.parametrize("name", ["shard-00999.parquet", "part-0.parquet", "sub/shard-00000.parquet"])
def test_a_shard_a_second_time_under_another_name(run: Path, stage: str, name: str) -> None:
    copy = run / stage / name
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(shards(run, stage)[0].read_bytes())
    assert f"file://{copy} is not in the marker" in failure(run)


@pytest.mark.parametrize(
    "name",
    ["features/part-00000", "features/_reused/shard-00001.parquet", "pca/notes.txt", "sample/part-0.parquet"],
)
def test_an_object_that_no_run_wrote(run: Path, name: str) -> None:
    """Spark and pyarrow.dataset read files of a folder whatever their suffix."""
    stray = run / name
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(shards(run, "features")[0].read_bytes())
    assert f"file://{stray} is not in the marker" in failure(run)


def test_names_that_readers_of_a_folder_skip_may_be_there(run: Path) -> None:
    for name in (".DS_Store", "_temporary"):
        (run / "features" / name).write_bytes(b"x")
    check_run(RunLayout(str(run)))


def test_a_missing_shard_of_the_sample_is_drawn_again(run: Path) -> None:
    gone = shards(run, "sample")[2]
    gone.unlink()
    with pytest.raises(JobError, match=f"file://{gone} is missing") as caught:
        check_run(RunLayout(str(run)))
    assert caught.value.stage is Stage.SAMPLE


def test_rejects_with_other_reasons(run: Path) -> None:
    shard = shards(run, "rejects")[0]
    rewrite(shard, column("reason", lambda rows: ["truncated"] * len(rows)))
    assert f"file://{shard} has 1 rows, the marker says 1: {{'truncated': 1}}, not" in failure(run)


@pytest.mark.parametrize("name", ["image", "label", "sha256", "reason", "detail"])
def test_a_flipped_bit_in_any_column_of_the_rejects(run: Path, name: str) -> None:
    shard = shards(run, "rejects")[0]
    group = pq.ParquetFile(shard).metadata.row_group(0)
    chunk = next(group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == name)
    start = chunk.data_page_offset if not chunk.has_dictionary_page else chunk.dictionary_page_offset
    content = bytearray(shard.read_bytes())
    content[start + chunk.total_compressed_size - 1] ^= 4
    shard.write_bytes(bytes(content))
    assert f"file://{shard} cannot be read as parquet" in failure(run)


@pytest.mark.parametrize(
    ("stage", "values"),
    [
        ("sample", {"bytes": 1}),
        ("features", {"rejects_by_reason": {"empty": 3}}),
        ("features", {"conversions": {"white-background": 9}}),
        ("features", {"reused": 7}),
        ("pca", {"images": 47}),
        ("pca", {"width": 1279}),
    ],
)
def test_a_total_that_is_not_that_of_the_shards(run: Path, stage: str, values: dict[str, Any]) -> None:
    mark(run, stage, **values)
    ((name, value),) = values.items()
    assert f"{run}/{stage}/_SUCCESS: {name} is {value}, its shards say " in failure(run)


def test_a_marker_that_was_changed_by_another_program(run: Path) -> None:
    for stage in ("sample", "features", "pca"):
        path = run / stage / MARKER
        whole = path.read_bytes()
        for name in json.loads(whole):
            path.write_text(json.dumps(json.loads(whole) | {name: "another"}))
            assert "as it was written" in failure(run)
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"pca_digest": "0"}, "pca_digest is 0, markers and"),
        ({"weights": "imagenet"}, "weights is"),
    ],
)
def test_a_summary_of_another_pca(run: Path, values: dict[str, Any], message: str) -> None:
    change_values(run / "pca" / "summary.json", **values)
    assert message in failure(run)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lambda content: content[:300], "is not a PcaSummary: no JSON object"), (None, "does not exist")],
)
def test_a_summary_that_is_damaged_or_missing(
    run: Path, damage: Callable[[bytes], bytes] | None, message: str
) -> None:
    path = run / "pca" / "summary.json"
    if damage:
        path.write_bytes(damage(path.read_bytes()))
    else:
        path.unlink()
    assert f"file://{path} {message}" in failure(run)


def test_two_shards_exchanged(run: Path) -> None:
    rows = {shard: pq.read_metadata(shard).num_rows for shard in shards(run, "features")}
    first = shards(run, "features")[0]
    second = next(shard for shard in rows if shard != first and rows[shard] == rows[first])
    body = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(body)
    text = failure(run)
    assert f"file://{first} is not the shard that the marker lists" in text


# Rows


def test_a_dropped_row(run: Path) -> None:
    shard = shards(run, "features")[1]
    rewrite(shard, lambda table: table.slice(1))
    text = failure(run)
    assert f"file://{shard} has " in text
    assert "rows, the marker says" in text


def test_a_row_in_place_of_another(run: Path) -> None:
    shard = shards(run, "features")[1]
    rewrite(shard, lambda table: pa.concat_tables([table.slice(1), table.slice(1, 1)]))
    text = failure(run)
    assert f"file://{shard}: 1 images occur twice" in text
    assert f"file://{shard}: 1 images of the manifest are lost, such as '" in text


@pytest.mark.parametrize("name", ["image", "label", "sha256"])
def test_a_row_with_another_name_label_or_content(run: Path, name: str) -> None:
    shard = shards(run, "features")[0]
    rewrite(shard, column(name, lambda values: ["other", *values[1:]]))
    text = failure(run)
    assert "1 images of the manifest are lost" in text
    assert f"file://{shard}: 1 images are not in the manifest" in text


def test_a_reject_that_is_another_image(run: Path) -> None:
    shard = shards(run, "rejects")[0]
    rewrite(shard, column("image", lambda values: ["Apricot/other.jpg", *values[1:]]))
    assert "such as 'Apricot/empty.jpg'" in failure(run)


def test_a_reject_too_many(run: Path) -> None:
    shard = shards(run, "rejects")[0]
    rewrite(shard, lambda table: pa.concat_tables([table, table]))
    assert f"file://{shard} has 2 rows, the marker says 1" in failure(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("stage", "name"), [("features", "features"), ("pca", "embedding")])
def test_a_value_that_is_no_number(run: Path, stage: str, name: str, value: float) -> None:
    shard = shards(run, stage)[0]
    rewrite(shard, column(name, lambda rows: [*rows[:-1], [value, *rows[-1][1:]]]))
    text = failure(run)
    assert f"file://{shard}: " in text
    assert "NaN or infinity" in text


def test_features_of_another_width(run: Path) -> None:
    shard = shards(run, "features")[0]
    rewrite(shard, column("features", lambda rows: [rows[0][:-1], *rows[1:]]))
    assert f"file://{shard}: row 0 has 1279 features, expected 1280" in failure(run)


def test_embeddings_of_another_width(run: Path) -> None:
    shard = shards(run, "pca")[0]
    rewrite(shard, column("embedding", lambda rows: [row[:-1] for row in rows]))
    assert f"file://{shard}: embeddings are not all 8 wide" in failure(run)


def test_a_column_of_another_type(run: Path) -> None:
    shard = shards(run, "features")[0]
    wide = pa.list_(pa.float64())
    rewrite(shard, lambda t: t.set_column(3, "features", t.column("features").cast(wide)))
    assert "column 'features' is list<" in failure(run)


# Markers and the manifest


@pytest.mark.parametrize("stage", ["sample", "features", "pca"])
def test_a_missing_marker(run: Path, stage: str) -> None:
    (run / stage / MARKER).unlink()
    assert f"file://{run}/{stage} has no _SUCCESS" in failure(run)


@pytest.mark.parametrize("stage", ["sample", "features", "pca"])
def test_a_marker_of_another_schema_version(run: Path, stage: str) -> None:
    mark(run, stage, schema_version=99)
    assert f"file://{run}/{stage}/_SUCCESS has schema version 99" in failure(run)


def test_a_manifest_that_is_missing(run: Path) -> None:
    (run / "sample" / "manifest.parquet").unlink()
    assert "manifest.parquet: it does not exist" in failure(run)


@pytest.mark.parametrize(
    "change",
    [column("label", lambda values: ["other", *values[1:]]), lambda table: table.slice(1)],
    ids=["another-label", "a-row-less"],
)
def test_a_manifest_that_is_not_what_was_drawn(run: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """It is the manifest that is named, and drawn again then, not the features."""
    rewrite(run / "sample" / "manifest.parquet", change)
    assert f"{run}/sample/manifest.parquet is not the one that the sample's marker names" in failure(run)
    mark(run, "sample", manifest_digest="")  # as an older release wrote it
    text = failure(run)
    assert f"{run}/sample/manifest.parquet: its rows of shard 0 are not those that the sample's" in text
    assert "features" not in text


def test_a_list_of_files_left_out_that_is_not_the_markers(run: Path) -> None:
    rewrite(run / "sample" / "left_out.parquet", lambda table: pa.concat_tables([table, a_file_left_out()]))
    assert "left_out.parquet lists 1 files left out, the marker says 0" in failure(run)


def test_a_sample_of_an_older_release_has_no_list_of_files_left_out(run: Path) -> None:
    (run / "sample" / "left_out.parquet").unlink()
    mark(run, "sample", source_files=None)
    assert check_run(RunLayout(str(run))).checks[0].startswith("not checked: an older release")


def a_file_left_out() -> pa.Table:
    row = {"file": "x.txt", "label": "", "suffix": ".txt", "reason": "no-image"}
    return pa.Table.from_pylist([row], schema=LEFT_OUT_SCHEMA)


def test_counts_that_do_not_add_up(run: Path) -> None:
    mark(run, "features", features=47)
    text = failure(run)
    assert "50 images in the manifest, 47 features + 2 rejects = 49" in text
    assert "48 embeddings for 47 features" in text


def test_features_of_another_sample(run: Path) -> None:
    mark(run, "features", shards=marker(run, "features")["shards"][:-1])
    assert "its shards are not those of" in failure(run)


def test_a_pca_of_other_features(run: Path) -> None:
    mark(run, "pca", features_digest="0" * 64)
    text = failure(run)
    assert "computed from other features than" in text
    assert "run the PCA step again" in text


# The PCA


def test_embeddings_that_are_not_the_projection(run: Path) -> None:
    shard = shards(run, "pca")[0]
    rewrite(shard, column("embedding", lambda rows: [[v + 0.01 for v in row] for row in rows]))
    assert f"file://{shard}: embeddings differ from the projection by" in failure(run)


def test_embeddings_that_are_not_centred(run: Path) -> None:
    """The model's mean is off, and the embeddings are what that model gives."""
    model = model_of(run)
    change_model(run, mean=model.mean + 0.05 * np.sqrt(model.explained_variance[0]) * model.components[0])
    moved = model_of(run)
    for source, target in zip(shards(run, "features"), shards(run, "pca"), strict=True):
        features = np.array(pq.read_table(source)["features"].to_pylist(), np.float32)
        embeddings = moved.transform(features).tolist()
        rewrite(target, column("embedding", lambda _, rows=embeddings: rows))
    text = failure(run)
    assert text.startswith("1 checks failed")
    assert "the embeddings' mean is off zero by 5.0e-02 deviations" in text


def test_two_embedding_shards_exchanged(run: Path) -> None:
    first, second = shards(run, "pca")[:2]
    body = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(body)
    assert f"file://{first}: its images are not those of the features, in order" in failure(run)


def test_components_that_are_not_orthonormal(run: Path) -> None:
    components = model_of(run).components.copy()
    components[1] = components[0]
    change_model(run, components=components)
    assert "components are off orthonormal by 1.0e+00" in failure(run)


def test_components_that_are_not_sorted(run: Path) -> None:
    change_model(run, explained_variance_ratio=model_of(run).explained_variance_ratio[::-1])
    assert "explained_variance_ratio is not sorted" in failure(run)


def test_variances_that_are_not_those_of_the_embeddings(run: Path) -> None:
    change_model(run, explained_variance=model_of(run).explained_variance * 1.01)
    text = failure(run)
    assert text.startswith("1 checks failed")
    assert "the embeddings' variance is off explained_variance by 9.9e-03" in text


def test_conversions_that_the_shards_do_not_count(run: Path) -> None:
    mark(run, "features", conversions={"transparent": 1})
    assert "the marker counts conversions {'transparent': 1}, its shards {}" in failure(run)


def test_a_kept_variance_that_the_marker_gets_wrong(run: Path) -> None:
    mark(run, "pca", variance_kept=0.5)
    assert "the marker says 0.500000" in failure(run)


def test_a_model_of_other_shapes(run: Path) -> None:
    change_model(run, components=model_of(run).components[:-1])
    assert "model.npz: shapes ((7, 1280), (1280,), (8,)), expected ((8, 1280), (1280,), (8,))" in failure(run)


def test_a_file_that_is_no_model(run: Path) -> None:
    (run / "pca" / PCA_MODEL).write_bytes(b"no model")
    assert f"file://{run}/pca/model.npz is not a PCA model" in failure(run)


@pytest.mark.parametrize("asked", ["components=9", "variance=0.9999"])
def test_fewer_components_than_were_asked_for(run: Path, asked: str) -> None:
    mark(run, "pca", request=asked)
    assert f"8 components keep {model_of(run).variance_kept:.4f}; {asked} was requested" in failure(run)


# embed.tflite


def put_embedder(run: Path, content: bytes | None) -> None:
    """Replace embed.tflite (None: delete it); marker and summary then say that it is the one."""
    file = run / "pca" / EMBEDDER
    file.write_bytes(content) if content is not None else file.unlink()
    digest = hashlib.sha256(content).hexdigest() if content is not None else None
    mark(run, "pca", embedder_digest=digest)
    change_values(run / "pca" / "summary.json", embedder_digest=digest)


def other_embedder(model: Path, pca: PcaModel) -> bytes:
    spec, backbone = read_backbone(str(model))
    return fuse(backbone, spec, pca)


def test_a_run_without_an_embedder_passes_and_says_so(run: Path) -> None:
    put_embedder(run, None)
    checks = check_run(RunLayout(str(run))).checks
    assert checks[-1] == "left out: there is no embed.tflite, the PCA step was run without --model"


def test_an_embedder_that_the_marker_does_not_know(run: Path) -> None:
    mark(run, "pca", embedder_digest=None)
    assert f"file://{run}/pca/embed.tflite is not in the marker" in failure(run)


def test_a_missing_embedder(run: Path) -> None:
    (run / "pca" / EMBEDDER).unlink()
    assert f"file://{run}/pca/embed.tflite: it does not exist" in failure(run)


@pytest.mark.parametrize("damage", ["one byte", "cut", "empty"])
def test_a_damaged_embedder(run: Path, damage: str) -> None:
    file = run / "pca" / EMBEDDER
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes({"one byte": content, "cut": content[:-1000], "empty": b""}[damage])
    text = failure(run)
    assert f"file://{file} has SHA-256 " in text
    assert "run the PCA step again" in text


def test_an_embedder_of_another_pca(run: Path, random_backbone: Path) -> None:
    """Random weights give features of about 1e-10, so it is one that is off by 0.5."""
    model = model_of(run)
    moved = dataclasses.replace(model, mean=model.mean - 0.5 * model.components[0])
    put_embedder(run, other_embedder(random_backbone, moved))
    text = failure(run)
    assert text.startswith("8 checks failed: ")
    assert re.search(
        rf"file://{run}/pca/embed.tflite: '\S.*?\.jpg' differs from its embedding by 5.0e-01, allowed is 1.",
        text,
    )


def test_an_embedder_of_another_width(run: Path, random_backbone: Path) -> None:
    model = model_of(run)
    narrow = dataclasses.replace(model, components=model.components[:3])
    put_embedder(run, other_embedder(random_backbone, narrow))
    assert "embed.tflite gives 3 numbers, the embeddings have 8" in failure(run)


@pytest.mark.parametrize("text", [b"", b"no model", b"....TFL3" + bytes(100)])
def test_an_embedder_that_is_no_model(run: Path, text: bytes) -> None:
    put_embedder(run, text)
    assert f"file://{run}/pca/embed.tflite is not a model that LiteRT opens" in failure(run)


@pytest.mark.parametrize("place", [0, -1])
def test_the_embedder_is_tried_on_images_of_several_shards(run: Path, place: int) -> None:
    """The first and the last image of the run are among them: their files are cut here."""
    shard = shards(run, "sample")[place]
    rewrite(shard, column("content", lambda values: [value[:200] for value in values]))
    assert f"file://{shard} is not the shard that the sample's marker lists" in failure(run)


def test_a_sample_that_has_lost_an_image_since(run: Path) -> None:
    shard = shards(run, "sample")[0]
    rewrite(shard, lambda table: table.slice(1))
    assert f"file://{shard} is not the shard that the sample's marker lists" in failure(run)


def test_many_failures_are_cut_short_and_counted(run: Path) -> None:
    for number in range(200, 215):
        (run / "features" / f"shard-{number:05d}.parquet").write_bytes(b"")
    text = failure(run)
    assert text.startswith("15 checks failed: ")
    assert text.endswith("(and 5 more)")
