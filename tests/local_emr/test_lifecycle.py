"""The states of a cluster and of its steps, with a worker that runs nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from local_emr.emr.cluster import Cluster, Step
from local_emr.emr.lifecycle import ClusterLifecycle
from local_emr.emr.requests import cluster_from, steps_from
from local_emr.state.clusters import ClusterStore
from support.waiting import eventually

FAILURE = {"Reason": "Unknown Error.", "Message": "no disk", "LogFile": "stderr"}


class ScriptedWorker:
    """A step whose jar is "fails" fails, one of "blocks" runs until it is cancelled or the worker closes."""

    def __init__(self) -> None:
        self.stopped: dict[str, threading.Event] = {}
        self.closed = threading.Event()

    def prepare(self) -> None: ...

    def bootstrap(self, number: int, path: str, args: Sequence[str]) -> str | None:
        return "bootstrap action 1 returned a non-zero return code" if path == "s3://fails" else None

    def run_step(self, step: Step) -> dict[str, str] | None:
        if step.jar != "blocks":
            return FAILURE if step.jar == "fails" else None
        stopped = self.stopped.setdefault(step.id, threading.Event())
        while not (stopped.is_set() or self.closed.is_set()):
            stopped.wait(0.01)
        return FAILURE

    def cancel(self, step_id: str, force: bool) -> None:
        self.stopped.setdefault(step_id, threading.Event()).set()

    def close(self) -> None:
        self.closed.set()

    def remove_node(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A cluster that has begun; its steps ``names`` are jars of the ScriptedWorker."""

    def __init__(self, *names: str, on_failure: str = "CONTINUE", worker: Any = None, **request: Any) -> None:
        instances = {"MasterInstanceType": "m5.xlarge", "KeepJobFlowAliveWhenNoSteps": True}
        request = {"Name": "n", **request, "Instances": {**instances, **request.get("Instances", {})}}
        self.cluster = cluster_from(request, "eu-west-3", "123456789012")
        self.cluster.steps = self._steps(names, on_failure)
        self.clock = Clock()
        self.lifecycle = ClusterLifecycle(self.cluster, worker or ScriptedWorker(), clock=self.clock)
        self.lifecycle.begin()

    def _steps(self, names: Sequence[str], on_failure: str = "CONTINUE") -> list[Step]:
        configs = [{"Name": n, "ActionOnFailure": on_failure, "HadoopJarStep": {"Jar": n}} for n in names]
        return steps_from(configs, self.cluster)

    def add(self, *names: str) -> list[Step]:
        steps = self._steps(names)
        self.lifecycle.add_steps(steps)
        return steps

    @property
    def states(self) -> list[str]:
        return [step.state for step in self.cluster.steps]

    def wait(self, *states: str) -> None:
        eventually(lambda: self.cluster.state in states, 30, lambda: self.cluster.status())

    def advance(self, seconds: float) -> None:
        """Lets idle time pass."""
        self.clock.now += seconds
        with self.lifecycle.changed:
            self.lifecycle.changed.notify_all()

    def stays(self, state: str) -> bool:
        self.lifecycle.join(0.2)
        return self.cluster.state == state


@pytest.fixture
def start() -> Iterator[Callable[..., Run]]:
    """Begins clusters, and ends them after the test."""
    runs: list[Run] = []

    def begin(*names: str, **more: Any) -> Run:
        runs.append(Run(*names, **more))
        return runs[-1]

    yield begin
    for run in runs:
        run.lifecycle.end("TERMINATED", "USER_REQUEST")
        run.lifecycle.join(30)


Start = Callable[..., Run]

# The end


def test_a_cluster_runs_its_steps_and_ends_by_itself(start: Start) -> None:
    run = start("a", "b", Instances={"KeepJobFlowAliveWhenNoSteps": False})
    run.wait("TERMINATED")
    assert (run.cluster.code, run.cluster.message) == ("ALL_STEPS_COMPLETED", "Steps completed")
    assert run.states == ["COMPLETED", "COMPLETED"]
    assert run.cluster.created <= (run.cluster.ready or 0) <= (run.cluster.ended or 0)


def test_keep_alive_can_be_taken_away_later(start: Start) -> None:
    run = start()
    run.wait("WAITING")
    run.lifecycle.update(keep_alive=False)
    run.wait("TERMINATED")
    assert run.cluster.code == "ALL_STEPS_COMPLETED"


def test_the_end_of_a_cluster_cancels_its_running_and_its_pending_steps(start: Start) -> None:
    run = start("blocks", "pending")
    eventually(lambda: run.states == ["RUNNING", "PENDING"], 30)
    run.lifecycle.end("TERMINATED", "USER_REQUEST")
    run.wait("TERMINATED")
    assert run.states == ["CANCELLED", "CANCELLED"]
    assert [step.message for step in run.cluster.steps] == ["Job terminated"] * 2


def test_the_first_reason_of_an_end_stays(start: Start) -> None:
    run = start("blocks")
    run.wait("RUNNING")
    run.lifecycle.end("TERMINATED", "USER_REQUEST")
    run.lifecycle.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", "later")
    run.lifecycle.join(30)
    assert (run.cluster.state, run.cluster.code) == ("TERMINATED", "USER_REQUEST")


def test_a_failing_bootstrap_action_ends_the_cluster_with_its_message(start: Start) -> None:
    run = start("never", BootstrapActions=[{"ScriptBootstrapAction": {"Path": "s3://fails"}}])
    run.wait("TERMINATED_WITH_ERRORS")
    assert (run.cluster.code, run.cluster.ready) == ("BOOTSTRAP_FAILURE", None)
    assert run.cluster.message == "bootstrap action 1 returned a non-zero return code"
    assert run.states == ["CANCELLED"]


def test_a_fault_of_the_server_ends_the_cluster_with_a_reason(start: Start) -> None:
    class Broken(ScriptedWorker):
        def prepare(self) -> None:
            raise OSError("disk full")

    run = start(worker=Broken())
    run.wait("TERMINATED_WITH_ERRORS")
    assert (run.cluster.code, run.cluster.message) == ("INTERNAL_ERROR", "OSError: disk full")


# Failed steps


@pytest.mark.parametrize("action", ["TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"])
def test_a_failed_step_ends_the_cluster_when_it_says_so(start: Start, action: str) -> None:
    run = start("fails", "next", on_failure=action)
    run.wait("TERMINATED_WITH_ERRORS")
    assert (run.cluster.code, run.cluster.message) == ("STEP_FAILURE", "Shut down as step failed")
    assert run.states == ["FAILED", "CANCELLED"]
    assert run.cluster.steps[0].failure == FAILURE


@pytest.mark.parametrize(
    ("action", "protected", "states"),
    [
        ("CANCEL_AND_WAIT", False, ["FAILED", "CANCELLED"]),
        ("CONTINUE", False, ["FAILED", "COMPLETED"]),
        ("TERMINATE_CLUSTER", True, ["FAILED", "CANCELLED"]),  # protection turns it into CANCEL_AND_WAIT
    ],
)
def test_a_failed_step_leaves_the_cluster_waiting_when_it_says_so_or_is_protected(
    start: Start, action: str, protected: bool, states: list[str]
) -> None:
    run = start("fails", "next", on_failure=action, Instances={"TerminationProtected": protected})
    run.wait("WAITING")
    assert run.states == states


# The queue


def test_steps_run_one_after_the_other(start: Start) -> None:
    run = start("a", "b", "c")
    run.wait("WAITING")
    first, second, third = run.cluster.steps
    assert (first.ended or 0) <= (second.started or 0) <= (second.ended or 0) <= (third.started or 0)


def test_steps_run_together_up_to_the_concurrency_level(start: Start) -> None:
    run = start("blocks", "blocks", "blocks", StepConcurrencyLevel=2)
    eventually(lambda: run.states == ["RUNNING", "RUNNING", "PENDING"], 30)
    run.lifecycle.update(concurrency=3)
    eventually(lambda: run.states == ["RUNNING"] * 3, 30)


# Idle time


def test_an_idle_cluster_ends_after_its_timeout_and_not_before(start: Start) -> None:
    run = start(AutoTerminationPolicy={"IdleTimeout": 300})
    run.wait("WAITING")
    run.advance(299)
    assert run.stays("WAITING")
    run.advance(1)
    run.wait("TERMINATED")
    assert run.cluster.code == "ALL_STEPS_COMPLETED"
    assert "auto-termination" in (run.cluster.message or "")


def test_a_step_starts_the_idle_time_anew(start: Start) -> None:
    run = start(AutoTerminationPolicy={"IdleTimeout": 300})
    run.wait("WAITING")
    run.clock.now += 200
    (step,) = run.add("step")
    eventually(lambda: step.state == "COMPLETED" and run.cluster.state == "WAITING", 30)
    run.advance(200)
    assert run.stays("WAITING")
    run.advance(100)
    run.wait("TERMINATED")


def test_a_protected_cluster_does_not_end_for_being_idle(start: Start) -> None:
    run = start(AutoTerminationPolicy={"IdleTimeout": 60}, Instances={"TerminationProtected": True})
    run.wait("WAITING")
    run.advance(600)
    assert run.stays("WAITING")
    run.lifecycle.update(protected=False)
    run.wait("TERMINATED")


# A restart


def test_a_cluster_that_was_alive_when_the_server_was_killed_comes_back_as_ended(
    start: Start, tmp_path: Path
) -> None:
    class Backend:
        def __init__(self, *lifecycles: ClusterLifecycle) -> None:
            self.lifecycles = {lifecycle.cluster.id: lifecycle for lifecycle in lifecycles}

        def restore(self, cluster: Cluster) -> None:
            self.lifecycles[cluster.id] = ClusterLifecycle(cluster, ScriptedWorker())

    class Backends(dict[str, dict[str, Backend]]):
        def iter_backends(self) -> list[tuple[str, str, Backend]]:
            return [("123456789012", "eu-west-3", self["123456789012"]["eu-west-3"])]

    run = start("blocks", "pending")
    eventually(lambda: run.states == ["RUNNING", "PENDING"], 30)
    ClusterStore(tmp_path, Backends({"123456789012": {"eu-west-3": Backend(run.lifecycle)}})).save()
    after = Backend()
    ClusterStore(tmp_path, Backends({"123456789012": {"eu-west-3": after}})).load()
    cluster = after.lifecycles[run.cluster.id].cluster
    assert (cluster.state, cluster.code) == ("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR")
    assert [step.state for step in cluster.steps] == ["INTERRUPTED", "CANCELLED"]
    assert cluster.ended
