"""One whole run of the DAG and one refused run: real Airflow, the local AWS, real Spark, real messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from support.mailbox import Mailbox
from support.stages import SMALL_MODEL, DagRun, Stage, draw_source, new_stage, table_of

pytestmark = pytest.mark.smoke


@dataclass(frozen=True)
class Notified:
    """A run of the DAG, the messages that it sent, and the clusters alive after it."""

    run: DagRun
    messages: list[dict[str, str]]
    alive: list[str]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A stage of these tests' own: they may run beside others."""
    with new_stage(tmp_path_factory.mktemp("smoke")) as made:
        yield made


@pytest.fixture(scope="module")
def mailbox(stage: Stage) -> Mailbox:
    return Mailbox(stage.aws, "runs")


def notified(stage: Stage, mailbox: Mailbox, run_key: str, **params: object) -> Notified:
    run = stage.with_environment(FRUITS_SNS_TOPIC_ARN=mailbox.topic).run(run_key, **params)
    alive = [cluster["Id"] for cluster in stage.clusters("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")]
    return Notified(run, mailbox.read(), alive)


@pytest.fixture(scope="module")
def finished(stage: Stage, mailbox: Mailbox, tmp_path_factory: pytest.TempPathFactory) -> Notified:
    """A run of 240 images and three files that are none."""
    source = draw_source(tmp_path_factory.mktemp("source"))
    return notified(stage, mailbox, "finished", source=str(source), components=20, **SMALL_MODEL)


@pytest.fixture(scope="module")
def refused(stage: Stage, mailbox: Mailbox) -> Notified:
    """A run of a folder that does not exist, in a deployment that speaks French."""
    french = stage.with_environment(FRUITS_LANGUAGE="fr")
    return notified(french, mailbox, "refused", source="/no/such/folder", **SMALL_MODEL)


def test_a_run_is_green_and_leaves_no_cluster_alive(finished: Notified, stage: Stage) -> None:
    assert finished.run.ok, finished.run.log[-5000:]
    assert finished.alive == []
    assert finished.run.summary()["cluster_id"] in [cluster["Id"] for cluster in stage.clusters("TERMINATED")]


def test_every_image_becomes_a_row_or_a_reject_with_its_reason(finished: Notified) -> None:
    summary = finished.run.summary()
    assert (summary["images"], summary["features"], summary["rejects"]) == (243, 240, 3)
    assert summary["rejects_by_reason"] == {"empty": 1, "not-an-image": 1, "truncated": 1}
    rejects = table_of(finished.run.storage, "rejects")
    assert set(rejects.column("image").to_pylist()) == {
        "Kiwi/empty.jpg",
        "Lemon/cut short é #1%.jpg",
        "Plum/a page.png",
    }


def test_the_summary_has_the_estimate_beside_the_actual_cost(finished: Notified) -> None:
    cost = finished.run.summary()["cost"]
    assert cost["estimate"]["images"] == 243
    assert "243 images on small in eu-west-3" in finished.run.log, "the plan's log does not show it"
    assert 0 < cost["by_the_clock"]["total_usd"] < cost["estimate"]["expected"]["total_usd"]
    assert cost["by_the_clock"]["unpriced"] == []


def test_embeddings_are_those_of_scikit_learn_on_the_runs_own_features(finished: Notified) -> None:
    from sklearn.decomposition import PCA

    features = table_of(finished.run.storage, "features")
    embeddings = table_of(finished.run.storage, "pca")
    assert embeddings.column("image").to_pylist() == features.column("image").to_pylist()
    wide = np.stack(features.column("features").to_numpy()).astype(np.float64)
    expected = PCA(20, svd_solver="full").fit(wide)
    rows = np.stack(embeddings.column("embedding").to_numpy())
    np.testing.assert_allclose(rows, expected.transform(wide), atol=1e-5 * np.abs(rows).max())
    variance = finished.run.summary()["variance_kept"]
    assert variance == pytest.approx(expected.explained_variance_ratio_.sum())


def test_the_fused_model_of_the_run_gives_its_embeddings(finished: Notified) -> None:
    assert finished.run.storage.exists("pca/embed.tflite")
    checks = finished.run.summary()["checks"]
    assert any(check.startswith("embed.tflite gives 8 images") for check in checks)


def test_the_logs_of_bootstrap_and_steps_are_in_the_bucket(finished: Notified) -> None:
    logs = f"logs/{finished.run.summary()['cluster_id']}"
    keys = [obj.key for obj in finished.run.storage.list(logs)]
    assert any(key.startswith(f"{logs}/steps/") and key.endswith("stdout.gz") for key in keys)
    assert any(key.startswith(f"{logs}/node/") and "stdout" in key for key in keys)


def test_a_run_notifies_that_its_cluster_is_ready_and_of_its_result(finished: Notified) -> None:
    subjects = [message["Subject"] for message in finished.messages]
    assert subjects == ["Cluster ready: finished", "Run finished: finished"]
    summary = finished.run.summary()
    ready, ended = (message["Message"] for message in finished.messages)
    assert summary["cluster_id"] in ready
    assert "Images: 243 of 12 labels; 240 features, 3 rejects" in ended
    assert f"20 components keep {100 * summary['variance_kept']:.1f}% of the variance" in ended
    cost = summary["cost"]["by_the_clock"]["total_usd"]
    assert f"Actual cost: about {cost:,.2f}\u00a0USD" in ended
    assert "The weights are random" in ended
    assert f"Results: {summary['places']['embeddings']}" in ended


def test_a_refused_run_fails_before_it_makes_a_cluster(refused: Notified, stage: Stage) -> None:
    assert not refused.run.ok, "a run whose message was sent is no good run for that"
    assert refused.alive == []
    assert "refused" not in [cluster["Name"].split()[-1] for cluster in stage.clusters("TERMINATED")]


def test_a_refused_run_notifies_its_reason_in_the_deployments_language(refused: Notified) -> None:
    (message,) = refused.messages
    assert message["Subject"].startswith("Échec de l'exécution : ")
    assert message["Subject"].endswith(" (preflight)")
    reason = "the source folder /no/such/folder does not exist"
    assert f"Tâche\u00a0: preflight\n{reason}" in message["Message"]
    assert "Rien n'a été démarré." in message["Message"]
