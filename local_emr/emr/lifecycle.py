"""The life of one cluster: its states, its step queue, why and how it ends.

Everything that changes goes through one condition. Nothing here knows how a step is run: that is the
``Worker``'s business, which makes the rules testable without a process.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from local_emr.emr.cluster import ENDED, STEP_ENDED, Cluster, Step

log = logging.getLogger(__name__)

ACTIVE = ("RUNNING", "CANCEL_PENDING")
REASONS = {  # the words EMR uses
    "ALL_STEPS_COMPLETED": "Steps completed",
    "USER_REQUEST": "Terminated by user request",
    "STEP_FAILURE": "Shut down as step failed",
}


class Worker(Protocol):
    """Does the work of a cluster; see local_emr.runner."""

    def prepare(self) -> None: ...

    def bootstrap(self, number: int, path: str, args: Sequence[str]) -> str | None: ...

    def run_step(self, step: Step) -> dict[str, str] | None: ...

    def cancel(self, step_id: str, force: bool) -> None: ...

    def close(self) -> None: ...

    def remove_node(self) -> None: ...


class Life:
    """Drives ``cluster`` with threads of its own after ``begin``.

    ``on_change(cluster, step)`` is called outside of the lock after a change of state, step None for the
    cluster's own; ``clock`` counts idle seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        worker: Worker,
        on_change: Callable[[dict[str, Any], dict[str, Any] | None], None] = lambda cluster, step: None,
        clock: Callable[[], float] = time.monotonic,
        start_seconds: float = 0.0,
    ) -> None:
        self.cluster = cluster
        self.worker = worker
        self.changed = threading.Condition(threading.RLock())
        self._on_change = on_change
        self._clock = clock
        self._start_seconds = start_seconds
        self._end: tuple[str, str, str] | None = None  # state, code, message
        self._thread = threading.Thread(target=self._live, name=cluster.id, daemon=True)
        self._events: list[tuple[dict[str, Any], dict[str, Any] | None]] = []

    def begin(self) -> None:
        self._note_cluster()
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        self._thread.join(timeout)

    # What callers may ask for; each takes the lock.

    @property
    def ending(self) -> bool:
        return self._end is not None or self.cluster.state in ENDED

    def add_steps(self, steps: list[Step]) -> None:
        with self.changed:
            self.cluster.steps.extend(steps)
            for step in steps:
                self._note_step(step)
            self.changed.notify_all()

    def end(self, state: str, code: str, message: str | None = None) -> None:
        """Asks for the end; the first reason stays."""
        with self.changed:
            if not self.ending:
                self._end = (state, code, message or REASONS[code])
            bootstrapping = self.cluster.state == "BOOTSTRAPPING"
            self.changed.notify_all()
        if bootstrapping:  # the cluster's thread waits for the script
            self.worker.close()

    def update(self, **values: Any) -> None:
        """Changes settings of the cluster; the queue and the idle timer look at them again."""
        with self.changed:
            for name, value in values.items():
                setattr(self.cluster, name, value)
            self.changed.notify_all()

    def cancel(self, step: Step, force: bool) -> str | None:
        """Cancels a pending or running step; returns why it cannot, or None."""
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

    # The cluster's own thread.

    def _live(self) -> None:
        try:
            self._boot()
            self._work()
        except Exception as error:  # a fault of the server: the cluster must still end, and say why
            log.exception("cluster %s", self.cluster.id)
            self.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", f"{type(error).__name__}: {error}")
        self._shut_down()

    def _boot(self) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.ending, self._start_seconds)
            if self.ending:
                return
            self._set_cluster("BOOTSTRAPPING", "Running bootstrap actions")
            self.cluster.collection.state = "BOOTSTRAPPING"
        self._publish()
        self.worker.prepare()
        for number, action in enumerate(self.cluster.request.get("BootstrapActions") or [], 1):
            script = action["ScriptBootstrapAction"]
            problem = self.worker.bootstrap(number, script["Path"], script.get("Args") or [])
            if problem:
                self.end("TERMINATED_WITH_ERRORS", "BOOTSTRAP_FAILURE", problem)
            if self.ending:
                return
        with self.changed:
            self.cluster.ready = self.cluster.collection.ready = time.time()
            self.cluster.collection.state = "RUNNING"

    def _work(self) -> None:
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
                    threading.Thread(target=self._run, args=(step,), name=step.id, daemon=True).start()
                timeout = None
                if active or pending:
                    idle_since = self._clock()
                    self._set_cluster("RUNNING", "Running step")
                elif not cluster.keep_alive:
                    self.end("TERMINATED", "ALL_STEPS_COMPLETED")
                    return
                else:
                    ready = (
                        "Cluster ready after last step completed."
                        if cluster.steps
                        else "Cluster ready to run steps."
                    )
                    self._set_cluster("WAITING", ready)
                    # Termination protection holds off this timer, and only this: see README.
                    if cluster.idle_timeout and not cluster.protected:
                        timeout = cluster.idle_timeout - (self._clock() - idle_since)
                        if timeout <= 0:
                            text = f"Terminated by the auto-termination policy: idle {cluster.idle_timeout} s"
                            self.end("TERMINATED", "ALL_STEPS_COMPLETED", text)
                            return
                if not self._events:
                    self.changed.wait(timeout)
            self._publish()

    def _run(self, step: Step) -> None:
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
        """What ActionOnFailure asks for. With more than one step at a time EMR treats each as CONTINUE."""
        if self.cluster.concurrency > 1 or step.action_on_failure == "CONTINUE":
            return
        if step.action_on_failure != "CANCEL_AND_WAIT" and not self.cluster.protected:
            self.end("TERMINATED_WITH_ERRORS", "STEP_FAILURE")
            return
        for other in self.cluster.steps:
            if other.state == "PENDING":
                self._finish(other, "CANCELLED", f"Cancelled as step {step.id} failed")

    def _shut_down(self) -> None:
        assert self._end is not None
        state, code, message = self._end
        with self.changed:
            self._set_cluster("TERMINATING", message, code)
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
            self._set_cluster(state, message, code)
            self.changed.notify_all()
        self._publish()

    # Changes of state; the lock is held.

    def _finish(self, step: Step, state: str, message: str | None = None) -> None:
        step.ended = time.time()
        step.message = message
        self._set_step(step, state)

    def _set_step(self, step: Step, state: str) -> None:
        step.state = state
        self._note_step(step)

    def _set_cluster(self, state: str, message: str, code: str | None = None) -> None:
        if self.cluster.state == state:
            return
        self.cluster.state, self.cluster.message, self.cluster.code = state, message, code
        self._note_cluster()

    def _note_step(self, step: Step) -> None:
        self._events.append((self.cluster.summary(), step.describe()))

    def _note_cluster(self) -> None:
        self._events.append((self.cluster.summary(), None))

    def _publish(self) -> None:
        with self.changed:
            events, self._events = self._events, []
        for cluster, step in events:
            self._on_change(cluster, step)
