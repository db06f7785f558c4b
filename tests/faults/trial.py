"""One fault: a run that meets it, and the checks of the promises afterwards."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import promises
from testbed import PARAMS, Testbed

from fruit_pipeline.demo import run as demo_run
from image_features.storage import Storage
from support.fault_kinds import Meanwhile
from support.faulty_aws import Fault
from support.mailbox import Mailbox
from support.stages import Stage

AnyFault = TypeVar("AnyFault", bound=Fault)


@dataclass(frozen=True)
class Ended:
    """How a DAG run ended, and its last message, which is empty when there was none."""

    ok: bool
    log: str
    message: str
    subject: str = ""


@dataclass
class Trial:
    """Add faults, then say how the run has to end: it ``goes_through``, or it ``fails``."""

    testbed: Testbed
    mailbox: Mailbox
    undisturbed: promises.Output
    run_key: str
    row: dict[str, Any]  # of the table
    variables: dict[str, str] = field(default_factory=dict)  # of Airflow's environment, for this trial
    params: dict[str, Any] = field(default_factory=dict)  # of this run
    _faults: list[Fault] = field(default_factory=list)

    @property
    def stage(self) -> Stage:
        return self.testbed.stage.with_environment(FRUITS_SNS_TOPIC_ARN=self.mailbox.topic, **self.variables)

    @property
    def prefix(self) -> str:
        """The run's, as the path of a call has it."""
        return f"/{demo_run.BUCKET}/runs/{self.run_key}"

    @property
    def storage(self) -> Storage:
        """Below the run's prefix."""
        return self.stage.run_storage(self.run_key)

    def copy_undisturbed(self) -> None:
        """Give the key the output of the undisturbed run, as of a run that went through."""
        there = self.stage.run_storage("undisturbed")
        for obj in there.list():
            if obj.key.partition("/")[0] in ("sample", "features", "rejects", "pca"):
                self.storage.put(obj.key, there.get(obj.key))

    def upload_source(self) -> Storage:
        """The testbed's images, put below a prefix of the bucket."""
        target = self.stage.aws.storage(f"s3://{demo_run.BUCKET}/sources/{self.run_key}")
        for file in self.testbed.source.rglob("*"):
            if file.is_file():
                target.put(file.relative_to(self.testbed.source).as_posix(), file)
        return target

    def add(self, fault: AnyFault) -> AnyFault:
        """Add a fault that has to occur: without it the trial proves nothing."""
        self.testbed.proxy.add(fault)
        self._faults.append(fault)
        return fault

    def run(self) -> Ended:
        """One run of the DAG by `airflow dags test`."""
        run = self.stage.run(self.run_key, **{"source": str(self.testbed.source), **PARAMS, **self.params})
        self.testbed.proxy.lift()  # the mailbox is asked through it as well
        last = (self.mailbox.read() or [{"Message": "", "Subject": ""}])[-1]
        return Ended(run.ok, run.log, **_words(last))

    def run_beside(self) -> tuple[Ended, Ended]:
        """Two runs of this key at once, by two Airflows, each with a database of its own.

        Both have come to make their cluster before either may ask for it.
        """
        both = threading.Barrier(2)
        self.add(Meanwhile(lambda _: both.wait(1200), "PUT", path=f"{self.prefix}/_LOCK", times=2))
        second = self.testbed.second_airflow(self.stage)
        params = {"source": str(self.testbed.source), **PARAMS, **self.params}
        processes = [(stage, stage.start(self.run_key, **params)) for stage in (self.stage, second)]
        runs = [stage.ended(process, self.run_key) for stage, process in processes]
        self.testbed.proxy.lift()
        messages = {"failed" in message["Subject"]: message for message in self.mailbox.read()}
        nothing = {"Message": "", "Subject": ""}
        ended = [Ended(run.ok, run.log, **_words(messages.get(not run.ok, nothing))) for run in runs]
        return ended[0], ended[1]

    def goes_through(self, run: Callable[[], Ended] | None = None) -> Ended:
        """The run ends well, with the output of an undisturbed run."""
        started = time.monotonic()
        ended = (run or self.run)()
        self.row["seconds"] = round(time.monotonic() - started)
        self._check_faults_occurred()
        assert ended.ok, f"{ended.message}\n{ended.log[-6000:]}"
        promises.check_finished(self.stage, self.run_key, self.undisturbed)
        promises.check_no_cluster_alive(self.stage)
        self._record("succeeded")
        return ended

    def fails(
        self,
        cause: str,
        run: Callable[[], Ended] | None = None,
        again: Callable[[], None] | None = None,
        results_complete: bool = False,
    ) -> Ended:
        """The run fails with a message that matches ``cause``; without the fault the same key goes through.

        ``again``: repairs by hand before the run is triggered again. ``results_complete``: only the teardown
        fails, and all results are there.
        """
        started = time.monotonic()
        ended = (run or self.run)()
        self.row["seconds"] = round(time.monotonic() - started)
        self._check_faults_occurred()
        assert not ended.ok, "the run did not fail"
        match = re.search(cause, ended.message)
        assert match, f"the message does not match {cause!r}: {ended.message}\n{ended.log[-6000:]}"
        self.row["cause"] = " ".join(match[0].split())
        promises.check_no_cluster_alive(self.stage)
        judge = promises.check_finished if results_complete else promises.check_failed
        judge(self.stage, self.run_key, self.undisturbed)
        self.testbed.proxy.clear()
        if again:
            again()
        resumed = self.run()
        assert resumed.ok, f"cannot be resumed: {resumed.message}\n{resumed.log[-6000:]}"
        promises.check_finished(self.stage, self.run_key, self.undisturbed)
        promises.check_no_cluster_alive(self.stage)
        self._record("failed with its cause; resumed")
        return ended

    def _check_faults_occurred(self) -> None:
        self.testbed.proxy.lift()
        assert not self.testbed.proxy.errors, f"the fault itself failed: {self.testbed.proxy.errors}"
        idle = [fault for fault in self._faults if not fault.caught.total()]
        assert not idle, f"the fault did not occur: {idle}"

    def _record(self, outcome: str) -> None:
        self.row["outcome"] = outcome
        self.row["recomputed"] = promises.recomputed(self.stage, self.run_key)


def _words(message: Mapping[str, str]) -> dict[str, str]:
    return {"message": message["Message"], "subject": message["Subject"]}
