"""Whole runs of the DAG: real Airflow, the local AWS, real Spark, real parquet."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.contract import FeaturesMarker, PcaMarker, shard_key
from image_features.documents import find_document, read_document
from image_features.storage import Storage
from support.stages import DagRun, Stage

pytestmark = pytest.mark.usefixtures("nothing_left_alive")

SMALL_MODEL = {"alpha": 0.35, "weights": "random:0"}


def table_of(storage: Storage, prefix: str) -> pa.Table:
    """All shards below a prefix of a run, in order."""
    keys = sorted(obj.key for obj in storage.list(prefix) if obj.key.startswith(f"{prefix}/shard-"))
    return pa.concat_tables(pq.read_table(pa.BufferReader(storage.get(key))) for key in keys)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images, and among them files that are none."""
    folder = tmp_path_factory.mktemp("source")
    draw_folder(folder, per_label=20)
    whole = (folder / "Kiwi" / "000.jpg").read_bytes()
    (folder / "Kiwi" / "empty.jpg").write_bytes(b"")
    (folder / "Lemon" / "cut short é #1%.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Plum" / "a page.png").write_text("<html>not found</html>")
    return folder


@pytest.fixture(scope="module")
def finished(stage: Stage, source: Path) -> DagRun:
    return stage.run("finished", source=str(source), components=20, **SMALL_MODEL)


def test_every_image_becomes_a_row_or_a_reject_with_its_reason(finished: DagRun):
    assert finished.ok, finished.log[-5000:]
    summary = finished.summary()
    assert (summary["images"], summary["features"], summary["rejects"]) == (243, 240, 3)
    assert summary["rejects_by_reason"] == {"empty": 1, "not-an-image": 1, "truncated": 1}
    rejects = table_of(finished.storage, "rejects")
    assert set(rejects.column("image").to_pylist()) == {
        "Kiwi/empty.jpg",
        "Lemon/cut short é #1%.jpg",
        "Plum/a page.png",
    }


def test_the_estimate_stands_beside_the_cost_by_the_clusters_clock(finished: DagRun):
    cost = finished.summary()["cost"]
    assert cost["estimate"]["images"] == 243
    assert "243 images on small in eu-west-3" in finished.log, "the plan's log does not show it"
    assert 0 < cost["by_the_clock"]["total_usd"] < cost["estimate"]["expected"]["total_usd"]
    assert cost["by_the_clock"]["unpriced"] == []


def test_embeddings_are_those_of_scikit_learn_on_the_run_s_own_features(finished: DagRun):
    from sklearn.decomposition import PCA

    features = table_of(finished.storage, "features")
    embeddings = table_of(finished.storage, "pca")
    assert embeddings.column("image").to_pylist() == features.column("image").to_pylist()
    wide = np.stack(features.column("features").to_numpy()).astype(np.float64)
    expected = PCA(20, svd_solver="full").fit(wide)
    found = np.stack(embeddings.column("embedding").to_numpy())
    np.testing.assert_allclose(found, expected.transform(wide), atol=1e-5 * np.abs(found).max())
    assert finished.summary()["variance_kept"] == pytest.approx(expected.explained_variance_ratio_.sum())


def test_the_fused_model_of_the_run_gives_its_embeddings(finished: DagRun):
    assert finished.storage.exists("pca/embed.tflite")
    assert any(check.startswith("embed.tflite gives 8 images") for check in finished.summary()["checks"])


def test_the_nodes_python_ran_the_steps(finished: DagRun, stage: Stage):
    cluster = finished.summary()["cluster_id"]
    step = next(
        obj.key for obj in finished.storage.list(f"logs/{cluster}/steps") if obj.key.endswith("stdout.gz")
    )
    assert step
    bootstrap = [obj.key for obj in finished.storage.list(f"logs/{cluster}/node") if "stdout" in obj.key]
    assert bootstrap, "the bootstrap action's log is not in the bucket"
    assert stage.clusters("TERMINATED"), "the cluster is not listed as terminated"


def test_the_same_run_again_computes_nothing_and_changes_nothing(
    finished: DagRun, stage: Stage, source: Path
):
    assert finished.ok
    before = {
        obj.key: finished.storage.get(obj.key).to_pybytes() for obj in finished.storage.list("features")
    }
    again = stage.run("finished", source=str(source), components=20, **SMALL_MODEL)
    assert again.ok, again.log[-5000:]
    after = {obj.key: again.storage.get(obj.key).to_pybytes() for obj in again.storage.list("features")}
    assert after == before


def test_a_run_from_the_bucket_that_copies_nothing_and_reuses_an_earlier_one(
    finished: DagRun, stage: Stage, source: Path
):
    """The same images under other names, and a few more: only those are computed."""
    assert finished.ok
    folder = source.parent / "renamed"
    shutil.copytree(source, folder)
    (folder / "Kiwi").rename(folder / "Kiwi gold")
    draw_folder(folder, per_label=21)  # one more of each kind, and the kiwis under their old name as well
    storage = stage.aws.storage(f"s3://{demo_run.BUCKET}/photos")
    for path in folder.rglob("*.*"):
        storage.put(path.relative_to(folder).as_posix(), path)
    # The demo's own connection is for the local AWS; sources come from the user's account.
    stage = stage.with_environment(FRUITS_SOURCE_AWS_CONN_ID="aws_local")
    params = {"source": storage.uri, "pack": False, "reuse": "finished", "components": 20}
    run = stage.run("reuse", **params, **SMALL_MODEL)
    assert run.ok, run.log[-5000:]
    summary = run.summary()
    assert (summary["images"], summary["features"], summary["rejects"]) == (275, 272, 3)
    assert summary["reused"] == 260
    earlier = {row["sha256"]: row["features"] for row in table_of(finished.storage, "features").to_pylist()}
    again = {row["sha256"]: row["features"] for row in table_of(run.storage, "features").to_pylist()}
    assert earlier.items() <= again.items()
    assert len(again) == 252
    wrong = stage.run("wrong", **params, alpha=0.5, weights="random:0")
    assert not wrong.ok
    assert "cannot be reused: its backbone is" in wrong.log
    assert "wrong" not in {c["Name"].split()[-1] for c in stage.clusters("TERMINATED", "WAITING", "RUNNING")}


def test_a_failing_step_fails_the_run_and_names_its_log(stage: Stage, source: Path):
    params = {"source": str(source), "components": 20, **SMALL_MODEL}
    assert stage.run("failing", **params).ok
    storage = stage.run_storage("failing")
    storage.put(f"sample/{shard_key(3)}", b"no parquet at all")
    storage.delete([f"features/{shard_key(3)}"])
    failed = stage.run("failing", **params)
    assert not failed.ok
    message = next(line for line in failed.log.splitlines() if "AirflowFailException: step" in line)
    assert f"sample/{shard_key(3)}" in message, "the error does not name the file"
    assert "/logs/j-" in message, "the error does not name the step's log"
    assert find_document(FeaturesMarker, stage.aws.storage(storage.uri_of("features"))) is None


def test_a_step_above_its_limit_is_cancelled_and_the_cluster_terminated(
    stage: Stage, source: Path, tmp_path: Path
):
    """With limits of 2 seconds, which no step keeps."""
    patch = "from fruit_pipeline import estimate\n"
    patch += "estimate.LIMIT_FACTOR, estimate.LIMIT_FLOOR_SECONDS = 0.0, 2.0\n"
    (tmp_path / "sitecustomize.py").write_text(patch)
    hasty = stage.with_environment(PYTHONPATH=str(tmp_path))
    failed = hasty.run("hasty", source=str(source), components=20, **SMALL_MODEL)
    assert not failed.ok
    message = next(line for line in failed.log.splitlines() if "AirflowFailException: step" in line)
    assert "(extract features) has run for 0 min, its limit (three times its estimate" in message
    newest = stage.clusters("TERMINATED")[0]
    assert newest["Name"].endswith(" hasty")
    (step,) = stage.aws.client("emr").list_steps(ClusterId=newest["Id"])["Steps"]
    assert step["Status"]["State"] == "CANCELLED"


def test_a_broken_bootstrap_fails_the_run_with_its_reason(stage: Stage, source: Path, tmp_path: Path):
    home = Path(stage.environment["FRUITS_HOME"])
    for part in ("spark_jobs", "bootstrap", "emr_configs"):
        shutil.copytree(home / part, tmp_path / part)
    (tmp_path / "bootstrap" / "install.sh").write_text("#!/bin/bash\necho no wheels today >&2\nexit 3\n")
    broken = stage.with_environment(FRUITS_HOME=str(tmp_path))
    failed = broken.run("bootstrap", source=str(source), components=20, **SMALL_MODEL)
    assert not failed.ok
    message = next(line for line in failed.log.splitlines() if "AirflowFailException: cluster" in line)
    assert "BOOTSTRAP_FAILURE" in message
    assert "/logs" in message


def test_too_many_components_are_refused_before_a_cluster_is_made(stage: Stage, source: Path):
    before = len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS"))
    refused = stage.run("components", source=str(source), components=244, **SMALL_MODEL)
    assert not refused.ok
    assert "244 components asked for, but 243 images of 1280 features allow 1 to 243" in refused.log
    assert len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS")) == before


def test_a_run_above_its_budget_is_refused_before_a_cluster_is_made(stage: Stage, source: Path):
    before = len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS"))
    refused = stage.run("budget", source=str(source), max_cost_usd=0.01, components=20, **SMALL_MODEL)
    assert not refused.ok
    assert "too expensive: 243 images on small cost" in refused.log
    assert len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS")) == before


def test_weights_that_cannot_be_had_fail_before_a_cluster_is_made(stage: Stage, source: Path):
    before = len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS"))
    refused = stage.run("weights", source=str(source), weights="/nowhere/weights.h5")
    assert not refused.ok
    assert "/nowhere/weights.h5 does not exist" in refused.log
    assert len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS")) == before


def test_300_real_images_with_real_weights(stage: Stage, shared_data: Path):
    weights = shared_data / "weights" / "mobilenetv2_1.00_224_imagenet_no_top_rebuilt.h5"
    run = stage.run(
        "real", source=str(shared_data / "fruits"), total=300, weights=str(weights), components=50
    )
    assert run.ok, run.log[-5000:]
    summary = run.summary()
    assert (summary["images"], summary["features"], summary["labels"]) == (300, 300, 131)
    # All 10,000 images keep 71.65 % in 50 components; fewer images vary in fewer ways.
    assert 0.72 < summary["variance_kept"] < 0.85
    marker = read_document(PcaMarker, stage.aws.storage(run.storage.uri_of("pca")))
    assert marker.components == 50
    assert demo_run.BUCKET in summary["places"]["embeddings"]


def test_an_int8_run_of_smaller_images_says_how_good_it_is(stage: Stage, shared_data: Path):
    weights = shared_data / "weights" / "mobilenetv2_1.00_224_imagenet_no_top_rebuilt.h5"
    params = {"source": str(shared_data / "fruits"), "total": 300, "weights": str(weights)}
    run = stage.run("int8", **params, input_size=160, precision="int8", components=50)
    assert run.ok, run.log[-5000:]
    summary = run.summary()
    assert (summary["features"], summary["input_size"], summary["precision"]) == (300, 160, "int8")
    assert (summary["quality"]["images_calibrated"], summary["quality"]["images_compared"]) == (150, 150)
    assert summary["quality"]["mean_cosine"] > 0.97


def test_int8_that_is_too_coarse_fails_with_its_figures_before_a_cluster_is_made(
    stage: Stage, shared_data: Path
):
    weights = shared_data / "weights" / "mobilenetv2_0.35_224_imagenet_no_top_rebuilt.h5"
    before = len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS"))
    params = {"source": str(shared_data / "fruits"), "total": 60, "weights": str(weights), "alpha": 0.35}
    refused = stage.run("coarse", **params, input_size=96, precision="int8", min_cosine=0.9999)
    assert not refused.ok
    assert "the mean cosine is below 0.9999 (cosine to float32 0.9" in refused.log
    assert len(stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS")) == before
