"""Of two DAG runs that make a cluster for one run key at the same moment, one gets to."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from fruit_pipeline.aws import lock
from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError
from image_features.storage import Storage
from support.local_aws import BUCKET


@pytest.fixture
def run(aws: Aws, request: pytest.FixtureRequest) -> Storage:
    return aws.storage(f"s3://{BUCKET}/runs/{request.node.name}")


def leave(run: Storage, dag_run: str, age: timedelta) -> None:
    """The lock of a process that was killed while it held it."""
    taken = datetime.now(UTC) - age
    run.put(lock.LOCK, json.dumps({"dag_run": dag_run, "taken": taken.isoformat()}).encode())


def try_all(run: Storage, dag_runs: list[str]) -> list[str]:
    """Which DAG runs get the lock, if all try at once and none releases it before all have tried."""
    asked = threading.Barrier(len(dag_runs))

    def take(dag_run: str) -> str | None:
        try:
            with lock.held(run, dag_run):
                asked.wait(60)
                return dag_run
        except JobError:
            asked.wait(60)
            return None

    with ThreadPoolExecutor(len(dag_runs)) as threads:
        return [found for found in threads.map(take, dag_runs) if found]


def test_one_of_many_gets_it(run: Storage) -> None:
    assert len(try_all(run, [f"manual__{n}" for n in range(8)])) == 1
    assert not run.exists(lock.LOCK)


def test_an_old_one_is_taken_over_by_one_of_many(run: Storage) -> None:
    leave(run, "manual__dead", lock.STALE + timedelta(seconds=1))
    assert len(try_all(run, [f"manual__{n}" for n in range(8)])) == 1


def test_a_retry_of_the_same_dag_run_gets_its_own_lock_again(run: Storage) -> None:
    leave(run, "manual__1", timedelta())
    assert try_all(run, ["manual__1"]) == ["manual__1"]


def test_another_dag_run_is_refused_with_the_name_of_the_holder(run: Storage) -> None:
    leave(run, "manual__1", timedelta(minutes=1))
    with pytest.raises(
        JobError, match=r"^DAG run manual__1 has been creating a cluster .* delete s3://\S+/_LOCK"
    ):
        lock.held(run, "manual__2").__enter__()
    assert run.exists(lock.LOCK), "the lock of another was given back"


def test_what_is_no_lock_is_refused_with_what_to_do(run: Storage) -> None:
    run.put(lock.LOCK, b"{}")
    with pytest.raises(JobError, match=r"_LOCK is not a valid lock, delete it: 'dag_run'"):
        lock.held(run, "manual__1").__enter__()


def test_it_is_given_back_when_the_work_fails(run: Storage) -> None:
    with pytest.raises(RuntimeError), lock.held(run, "manual__1"):
        raise RuntimeError
    assert not run.exists(lock.LOCK)
