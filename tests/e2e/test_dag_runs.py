"""More whole runs of the DAG: again, from a bucket, with broken parts, and of real images."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.contract import FeaturesMarker, PcaMarker, shard_key
from image_features.documents import find_document, read_document
from support.mailbox import Mailbox
from support.stages import SMALL_MODEL, DagRun, Stage, draw_source, table_of

pytestmark = pytest.mark.usefixtures("nothing_left_alive")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def topic(stage: Stage) -> Mailbox:
    return Mailbox(stage.aws, "runs")


@pytest.fixture
def mailbox(topic: Mailbox) -> Mailbox:
    """The mailbox, empty."""
    topic.read()
    return topic


@pytest.fixture(scope="module")
def notified(stage: Stage, topic: Mailbox) -> Stage:
    return stage.with_environment(FRUITS_SNS_TOPIC_ARN=topic.topic)


@pytest.fixture(scope="module")
def finished(stage: Stage, source: Path) -> DagRun:
    run = stage.run("finished", source=str(source), components=20, **SMALL_MODEL)
    assert run.ok, run.log[-5000:]
    return run


def features_of(run: DagRun) -> dict[str, bytes]:
    return {obj.key: run.storage.get(obj.key).to_pybytes() for obj in run.storage.list("features")}


def test_the_same_run_again_computes_nothing_though_its_messages_cannot_be_sent(
    finished: DagRun, notified: Stage, topic: Mailbox, source: Path
):
    before = features_of(finished)
    deaf = notified.with_environment(FRUITS_SNS_TOPIC_ARN=f"{topic.topic}-gone")
    again = deaf.run("finished", source=str(source), components=20, **SMALL_MODEL)
    assert again.ok, again.log[-5000:]
    assert features_of(again) == before
    assert again.log.count("the message was not sent: ") >= 2


def test_a_run_from_the_bucket_that_copies_nothing_and_reuses_an_earlier_one(
    finished: DagRun, stage: Stage, source: Path
):
    """The same images under other names, and a few more: only those are computed."""
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


def test_a_failed_step_fails_the_run_and_its_message_has_the_file_the_log_and_the_last_line(
    finished: DagRun, notified: Stage, mailbox: Mailbox, source: Path
):
    storage = notified.run_storage("failing")
    for obj in finished.storage.list():
        if obj.key.partition("/")[0] in ("sample", "features", "rejects"):
            storage.put(obj.key, finished.storage.get(obj.key))
    storage.put(f"sample/{shard_key(3)}", b"no parquet at all")
    storage.delete([f"features/{shard_key(3)}"])
    failed = notified.run("failing", source=str(source), components=20, **SMALL_MODEL)
    assert not failed.ok, "a run whose message was sent is no good run for that"
    ready, message = mailbox.read()
    assert ready["Subject"] == "Cluster ready: failing"
    assert message["Subject"] == "Run failed: failing (wait_for_extraction)"
    error = next(line for line in failed.log.splitlines() if "AirflowFailException: step" in line)
    for text in (error, message["Message"]):
        assert f"sample/{shard_key(3)}" in text
        assert "/logs/j-" in text
    last = next(line for line in message["Message"].splitlines() if line.startswith("Last line: "))
    assert last.startswith("Last line: error: ")
    assert "set to failing" in message["Message"]
    assert "MAY STILL BE ALIVE" not in message["Message"]
    features = notified.aws.storage(storage.uri_of("features"))
    assert find_document(FeaturesMarker, features) is None


def test_a_cluster_that_does_not_start_fails_the_run_and_its_message_has_the_reason(
    notified: Stage, mailbox: Mailbox, source: Path, tmp_path: Path
):
    home = notified.copy_home(tmp_path)
    (home / "bootstrap" / "install.sh").write_text("#!/bin/bash\necho no wheels today >&2\nexit 3\n")
    broken = notified.with_environment(FRUITS_HOME=str(home))
    failed = broken.run("unready", source=str(source), components=20, **SMALL_MODEL)
    assert not failed.ok
    error = next(line for line in failed.log.splitlines() if "AirflowFailException: cluster" in line)
    assert "BOOTSTRAP_FAILURE" in error
    assert "/logs" in error
    (message,) = mailbox.read()
    # Whichever sees it first: here a cluster fails within a second.
    assert message["Subject"] in [
        f"Run failed: unready ({task})" for task in ("cluster_ready", "add_extraction")
    ]
    assert "BOOTSTRAP_FAILURE" in message["Message"]


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
