"""The lifecycle of one cluster: its states, its step queue, its end and the reason for it.

One condition guards everything that changes. A ``Worker`` runs the bootstrap actions and the steps, so tests
of these rules need no process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from local_emr.emr.cluster import ENDED, STEP_ENDED, Cluster, Step

log = logging.getLogger(__name__)

ACTIVE = ("RUNNING", "CANCEL_PENDING")
MESSAGES = {  # EMR's own text for each code of a StateChangeReason
    "ALL_STEPS_COMPLETED": "Steps completed",
    "USER_REQUEST": "Terminated by user request",
    "STEP_FAILURE": "Shut down as step failed",
}


class Worker(Protocol):
    """Runs the bootstrap actions and the steps of one cluster; ``node.runner.NodeRunner`` is one.

    ``cancel`` and ``close`` may be called at any time and from any thread. An exception of another method is
    a fault of the server: it ends the cluster with INTERNAL_ERROR, or fails the step.
    """

    def prepare(self) -> None:
        """Creates the node, before the first bootstrap action."""

    def bootstrap(self, number: int, path: str, args: Sequence[str]) -> str | None:
        """Runs one bootstrap action, counted from 1; returns its failure in EMR's words, or None."""

    def run_step(self, step: Step) -> dict[str, str] | None:
        """Runs one step until it ends; returns its FailureDetails, or None when it completed."""

    def cancel(self, step_id: str, force: bool) -> None:
        """Interrupts the step, which may ignore it unless ``force`` is set; ``run_step`` then returns."""

    def close(self) -> None:
        """Ends all bootstrap actions and steps; none starts afterwards."""

    def remove_node(self) -> None:
        """Removes the node's files, after all steps have ended."""


@dataclass(frozen=True)
class Ending:
    """The state in which a cluster ends, and the code and message of its StateChangeReason."""

    state: str
    code: str
    message: str


class ClusterLifecycle:
    """Drives ``cluster`` in its own threads after ``begin``.

    ``on_change`` is called without the lock after each change of state, with the cluster's summary and the
    step, or None for a change of the cluster itself. ``clock`` measures idle seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        worker: Worker,
        on_change: Callable[[dict[str, Any], dict[str, Any] | None], None] = lambda cluster, step: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cluster = cluster
        self.worker = worker
        self.changed = threading.Condition(threading.RLock())
        self._on_change = on_change
        self._clock = clock
        self._ending: Ending | None = None
        self._thread = threading.Thread(target=self._run_cluster, name=cluster.id, daemon=True)
        self._events: list[tuple[dict[str, Any], dict[str, Any] | None]] = []

    def begin(self) -> None:
        self._record_cluster_event()
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    # For other threads: each method takes the lock.

    @property
    def ending(self) -> bool:
        return self._ending is not None or self.cluster.state in ENDED

    def add_steps(self, steps: list[Step]) -> None:
        with self.changed:
            self.cluster.steps.extend(steps)
            for step in steps:
                self._record_step_event(step)
            self.changed.notify_all()

    def end(self, state: str, code: str, message: str | None = None) -> None:
        """Requests the end of the cluster; the first request decides its state and its reason."""
        with self.changed:
            if not self.ending:
                self._ending = Ending(state, code, message or MESSAGES[code])
            bootstrapping = self.cluster.state == "BOOTSTRAPPING"
            self.changed.notify_all()
        if bootstrapping:  # the cluster's thread waits for the script
            self.worker.close()

    def update(self, **values: Any) -> None:
        """Changes settings of the cluster, which the queue and the idle timer read anew."""
        with self.changed:
            for name, value in values.items():
                setattr(self.cluster, name, value)
            self.changed.notify_all()

    def cancel(self, step: Step, force: bool) -> str | None:
        """Cancels a pending or running step; returns None, or the reason why it cannot be cancelled."""
        with self.changed:
            if step.state == "PENDING":
                self._finish(step, "CANCELLED", "Cancelled by user")
            elif step.state in ACTIVE:
                self._set_step(step, "CANCEL_PENDING")
            else:
                return f"The step is in state {step.state} and cannot be cancelled."
            self.changed.notify_all()
            running = step.state == "CANCEL_PENDING"
        if running:
            self.worker.cancel(step.id, force)
        return None

    # In the thread of the cluster.

    def _run_cluster(self) -> None:
        try:
            self._boot()
            self._run_steps()
        except Exception as error:  # a fault of the server: the cluster must still end, with a reason
            log.exception("cluster %s", self.cluster.id)
            self.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", f"{type(error).__name__}: {error}")
        self._shut_down()

    def _boot(self) -> None:
        with self.changed:
            if self.ending:
                return
            self._set_cluster("BOOTSTRAPPING", "Running bootstrap actions")
            self.cluster.collection.state = "BOOTSTRAPPING"
        self._publish()
        self.worker.prepare()
        for number, action in enumerate(self.cluster.request.get("BootstrapActions") or [], 1):
            script = action["ScriptBootstrapAction"]
            failure = self.worker.bootstrap(number, script["Path"], script.get("Args") or [])
            if failure:
                self.end("TERMINATED_WITH_ERRORS", "BOOTSTRAP_FAILURE", failure)
            if self.ending:
                return
        with self.changed:
            self.cluster.ready = self.cluster.collection.ready = time.time()
            self.cluster.collection.state = "RUNNING"

    def _run_steps(self) -> None:
        cluster = self.cluster
        idle_since = self._clock()
        while True:
            with self.changed:
                if self.ending:
                    return
                active = [s for s in cluster.steps if s.state in ACTIVE]
                pending = [s for s in cluster.steps if s.state == "PENDING"]
                for step in pending[: max(0, cluster.concurrency - len(active))]:
                    step.started = time.time()
                    self._set_step(step, "RUNNING")
                    threading.Thread(target=self._run_step, args=(step,), name=step.id, daemon=True).start()
                timeout = None
                if active or pending:
                    idle_since = self._clock()
                    self._set_cluster("RUNNING", "Running step")
                elif not cluster.keep_alive:
                    self.end("TERMINATED", "ALL_STEPS_COMPLETED")
                    return
                else:
                    message = (
                        "Cluster ready after last step completed."
                        if cluster.steps
                        else "Cluster ready to run steps."
                    )
                    self._set_cluster("WAITING", message)
                    # Termination protection stops only this timer: see README.
                    if cluster.idle_timeout and not cluster.protected:
                        timeout = cluster.idle_timeout - (self._clock() - idle_since)
                        if timeout <= 0:
                            text = f"Terminated by the auto-termination policy: idle {cluster.idle_timeout} s"
                            self.end("TERMINATED", "ALL_STEPS_COMPLETED", text)
                            return
                if not self._events:
                    self.changed.wait(timeout)
            self._publish()

    def _run_step(self, step: Step) -> None:
        try:
            failure = self.worker.run_step(step)
        except Exception as error:  # as above: the step must end
            log.exception("step %s", step.id)
            failure = {"Reason": "Internal error", "Message": f"{type(error).__name__}: {error}"}
        with self.changed:
            if step.state == "CANCEL_PENDING":
                self._finish(step, "CANCELLED", "Cancelled by user")
            elif failure and self.ending:
                self._finish(step, "CANCELLED", "Job terminated")
            elif failure:
                step.failure = failure
                self._finish(step, "FAILED")
                self._after_failure(step)
            else:
                self._finish(step, "COMPLETED")
            self.changed.notify_all()
        self._publish()

    def _after_failure(self, step: Step) -> None:
        """Applies ActionOnFailure. A cluster that runs several steps at a time treats each as CONTINUE."""
        if self.cluster.concurrency > 1 or step.action_on_failure == "CONTINUE":
            return
        if step.action_on_failure != "CANCEL_AND_WAIT" and not self.cluster.protected:
            self.end("TERMINATED_WITH_ERRORS", "STEP_FAILURE")
            return
        for other in self.cluster.steps:
            if other.state == "PENDING":
                self._finish(other, "CANCELLED", f"Cancelled as step {step.id} failed")

    def _shut_down(self) -> None:
        ending = self._ending
        assert ending is not None
        with self.changed:
            self._set_cluster("TERMINATING", ending.message, ending.code)
            self.cluster.collection.state = "TERMINATING"
            for step in self.cluster.steps:
                if step.state == "PENDING":
                    self._finish(step, "CANCELLED", "Job terminated")
        self._publish()
        self.worker.close()
        with self.changed:
            self.changed.wait_for(lambda: all(s.state in STEP_ENDED for s in self.cluster.steps), 30)
            for step in self.cluster.steps:
                if step.state not in STEP_ENDED:
                    self._finish(step, "INTERRUPTED", "The process did not end")
        self.worker.remove_node()
        with self.changed:
            self.cluster.ended = self.cluster.collection.ended = time.time()
            self.cluster.collection.state = "TERMINATED"
            self._set_cluster(ending.state, ending.message, ending.code)
            self.changed.notify_all()
        self._publish()

    # Changes of state: the caller holds the lock.

    def _finish(self, step: Step, state: str, message: str | None = None) -> None:
        step.ended = time.time()
        step.message = message
        self._set_step(step, state)

    def _set_step(self, step: Step, state: str) -> None:
        step.state = state
        self._record_step_event(step)

    def _set_cluster(self, state: str, message: str, code: str | None = None) -> None:
        if self.cluster.state == state:
            return
        self.cluster.state, self.cluster.message, self.cluster.code = state, message, code
        self._record_cluster_event()

    def _record_step_event(self, step: Step) -> None:
        self._events.append((self.cluster.summary(), step.describe()))

    def _record_cluster_event(self) -> None:
        self._events.append((self.cluster.summary(), None))

    def _publish(self) -> None:
        with self.changed:
            events, self._events = self._events, []
        for cluster, step in events:
            self._on_change(cluster, step)
