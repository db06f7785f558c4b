"""Whole runs are told as they end: real Airflow, the local AWS, a queue that hears the topic.

What matters as much as the message: a run that failed stays failed though it was told well, and a
run that finished stays finished though it could not be told.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.contract import shard_key
from support.mailbox import Mailbox
from support.stages import DagRun, Stage

pytestmark = pytest.mark.usefixtures("nothing_left_alive")

RUN = {"alpha": 0.35, "weights": "random:0", "components": 20}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    draw_folder(folder, per_label=4)
    return folder


@pytest.fixture(scope="module")
def messages(stage: Stage) -> Mailbox:
    """The topic's mailbox, whatever is in it."""
    return Mailbox(stage.aws, "runs")


@pytest.fixture(scope="module")
def notified(stage: Stage, messages: Mailbox) -> Stage:
    """The stage, with the topic."""
    return stage.with_environment(FRUITS_SNS_TOPIC_ARN=messages.topic)


@pytest.fixture
def mailbox(messages: Mailbox) -> Iterator[Mailbox]:
    """The mailbox, empty; the test reads all that comes."""
    messages.read()
    yield messages
    assert messages.read() == [], "more messages were sent than the test reads"


@pytest.fixture(scope="module")
def finished(notified: Stage, messages: Mailbox, source: Path) -> tuple[DagRun, list[dict[str, str]]]:
    """A run that finished, and its messages."""
    return notified.run("told", source=str(source), **RUN), messages.read()


def test_a_run_tells_that_its_cluster_is_ready_and_what_came_of_it(
    finished: tuple[DagRun, list[dict[str, str]]],
):
    run, messages = finished
    assert run.ok, run.log[-5000:]
    assert [message["Subject"] for message in messages] == ["Cluster ready: told", "Run finished: told"]
    summary = run.summary()
    ready, ended = (message["Message"] for message in messages)
    assert summary["cluster_id"] in ready
    assert "Images: 48 of 12 labels; 48 features, 0 rejects" in ended
    assert f"20 components keep {100 * summary['variance_kept']:.1f}% of the variance" in ended
    cost = summary["cost"]["by_the_clock"]["total_usd"]
    assert f"Actual cost: about {cost:,.2f}\u00a0USD" in ended
    assert "The weights are random" in ended
    assert f"Results: {summary['places']['embeddings']}" in ended


def test_a_run_that_cannot_be_told_finishes_all_the_same(notified: Stage, mailbox: Mailbox, source: Path):
    """The same run again, quick since its shards stand, to a topic that is not there."""
    gone = notified.environment["FRUITS_SNS_TOPIC_ARN"] + "-gone"
    run = notified.with_environment(FRUITS_SNS_TOPIC_ARN=gone).run("told", source=str(source), **RUN)
    assert run.ok, run.log[-5000:]
    assert run.log.count("the message was not sent: ") >= 2


def test_a_run_without_a_topic_says_so_in_its_log(stage: Stage):
    refused = stage.run("untold", source="/no/such/folder", **RUN)
    assert not refused.ok
    assert "no message is sent: FRUITS_SNS_TOPIC_ARN is not set" in refused.log


def test_a_refused_run_is_told_with_its_reason_and_fails(notified: Stage, mailbox: Mailbox):
    refused = notified.with_environment(FRUITS_LANGUAGE="fr").run("refused", source="/no/such/folder", **RUN)
    assert not refused.ok, "a run that was told well is no good run"
    (message,) = mailbox.read()
    assert message["Subject"].startswith("Échec de l'exécution : ")
    assert message["Subject"].endswith(" (preflight)")
    assert "Tâche\u00a0: preflight\nthe source folder /no/such/folder does not exist" in message["Message"]
    assert "Rien n'a été démarré." in message["Message"]


def test_a_failed_step_is_told_with_its_last_line_after_the_cluster_has_ended(
    finished: tuple[DagRun, list[dict[str, str]]], notified: Stage, mailbox: Mailbox, source: Path
):
    storage = finished[0].storage
    storage.put(f"sample/{shard_key(0)}", b"no parquet at all")
    storage.delete([f"features/{shard_key(0)}"])
    failed = notified.run("told", source=str(source), **RUN)
    assert not failed.ok, "a run that was told well is no good run"
    ready, message = mailbox.read()
    assert ready["Subject"] == "Cluster ready: told"
    assert message["Subject"] == "Run failed: told (wait_for_extraction)"
    text = message["Message"]
    assert f"sample/{shard_key(0)}" in text
    assert "/logs/j-" in text
    last = next(line for line in text.splitlines() if line.startswith("Last line: "))
    assert last.startswith("Last line: error: ")
    assert "set to told" in text
    assert "MAY STILL BE ALIVE" not in text


def test_a_cluster_that_does_not_start_is_told(
    notified: Stage, mailbox: Mailbox, source: Path, tmp_path: Path
):
    home = Path(notified.environment["FRUITS_HOME"])
    for part in ("spark_jobs", "bootstrap", "emr_configs"):
        shutil.copytree(home / part, tmp_path / part)
    (tmp_path / "bootstrap" / "install.sh").write_text("#!/bin/bash\necho no wheels today >&2\nexit 3\n")
    failed = notified.with_environment(FRUITS_HOME=str(tmp_path)).run("unready", source=str(source), **RUN)
    assert not failed.ok
    (message,) = mailbox.read()
    # Whichever looks first: here a cluster breaks within a second.
    assert message["Subject"] in [
        f"Run failed: unready ({task})" for task in ("cluster_ready", "add_extraction")
    ]
    assert "BOOTSTRAP_FAILURE" in message["Message"]
