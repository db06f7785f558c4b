"""Two DAG runs of one run key: one has the cluster, and the other neither takes nor ends it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.aws import lock
from fruit_pipeline.dag import operators
from support.fault_kinds import Meanwhile
from support.faulty_aws import FaultyAws
from support.local_aws import BUCKET, LocalAws


class TaskInstance:
    def xcom_push(self, key: str, value: Any) -> None:
        """The link to the cluster's logs has no place here."""


@pytest.fixture(autouse=True)
def _as_in_a_task_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)


@pytest.fixture
def create_for(create: Callable[[str], Any]) -> Callable[[str, str], Callable[[], Any]]:
    def build(run_key: str, dag_run: str) -> Callable[[], Any]:
        operator = create(run_key)
        operator.job_flow_overrides["Tags"].append({"Key": aws_clusters.DAG_RUN_TAG, "Value": dag_run})
        return lambda: operator.execute({"ti": TaskInstance(), "run_id": dag_run})

    return build


def end_for(arguments: dict[str, Any], run_key: str, dag_run: str) -> None:
    operator = operators.TerminateClusters(
        run_key=run_key, waiter_delay=1, waiter_max_attempts=60, **arguments
    )
    operator.execute({"run_id": dag_run})


def test_of_two_that_come_at_once_one_makes_a_cluster(
    create_for: Callable[[str, str], Callable[[], Any]], faulty: FaultyAws, clusters: LocalAws
) -> None:
    both = threading.Barrier(2)  # both have looked at what Airflow knows before either has the lock
    faulty.add(
        Meanwhile(lambda _: both.wait(120), "PUT", path=f"/{BUCKET}/runs/at-once/{lock.LOCK}", times=2)
    )
    work = [create_for("at-once", f"manual__{n}") for n in (1, 2)]

    def outcome(make: Callable[[], Any]) -> str:
        try:
            return str(make())
        except Exception as error:  # a lock that is given back at this moment is asked for again
            return type(error).__name__

    with ThreadPoolExecutor(2) as threads:
        made = [found for found in threads.map(outcome, work) if found.startswith("j-")]
    assert len(made) == 1
    assert clusters.alive() == made


def test_a_cluster_of_another_dag_run_is_neither_taken_nor_ended(
    create_for: Callable[[str, str], Callable[[], Any]], arguments: dict[str, Any], clusters: LocalAws
) -> None:
    made = create_for("owned", "manual__1")()
    with pytest.raises(AirflowFailException, match=f"cluster {made} of run owned is alive, made by DAG run"):
        create_for("owned", "manual__2")()
    end_for(arguments, "owned", "manual__2")
    assert clusters.alive() == [made]
    assert create_for("owned", "manual__1")() == made
    end_for(arguments, "owned", "manual__1")
    assert clusters.alive() == []
