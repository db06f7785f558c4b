"""One fault: a run that meets it, and the promises held against what came of it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import promises
from ground import PARAMS, Ground

from fruit_pipeline.demo import run as demo_run
from image_features.storage import Storage
from support.fault_kinds import Meanwhile
from support.faulty_aws import Fault
from support.mailbox import Mailbox
from support.stages import Stage

AnyFault = TypeVar("AnyFault", bound=Fault)


@dataclass(frozen=True)
class Ended:
    """How a DAG run ended; ``told``, ``subject``: of the last message, "" when there was none."""

    ok: bool
    log: str
    told: str
    subject: str = ""


@dataclass
class Trial:
    """Add faults, then say how the run has to end: it ``goes_through``, or it ``fails``."""

    ground: Ground
    mailbox: Mailbox
    undisturbed: promises.Output
    run_key: str
    row: dict[str, Any]  # of the table
    variables: dict[str, str] = field(default_factory=dict)  # of Airflow's environment, for this trial
    params: dict[str, Any] = field(default_factory=dict)  # of this run
    _faults: list[Fault] = field(default_factory=list)

    @property
    def stage(self) -> Stage:
        return self.ground.stage.with_environment(FRUITS_SNS_TOPIC_ARN=self.mailbox.topic, **self.variables)

    @property
    def prefix(self) -> str:
        """The run's, as the path of a call has it."""
        return f"/{demo_run.BUCKET}/runs/{self.run_key}"

    @property
    def storage(self) -> Storage:
        """Below the run's prefix."""
        return self.stage.run_storage(self.run_key)

    def finished(self) -> None:
        """Make the key that of a run that has gone through: with the undisturbed run's output."""
        there = self.stage.run_storage("undisturbed")
        for obj in there.list():
            if obj.key.partition("/")[0] in ("sample", "features", "rejects", "pca"):
                self.storage.put(obj.key, there.get(obj.key))

    def upload_source(self) -> Storage:
        """The ground's images, put below a prefix of the bucket."""
        target = self.stage.aws.storage(f"s3://{demo_run.BUCKET}/sources/{self.run_key}")
        for file in self.ground.source.rglob("*"):
            if file.is_file():
                target.put(file.relative_to(self.ground.source).as_posix(), file)
        return target

    def add(self, fault: AnyFault) -> AnyFault:
        """A fault that has to strike: a trial in which it does not shows nothing."""
        self.ground.proxy.add(fault)
        self._faults.append(fault)
        return fault

    def run(self) -> Ended:
        """One run of the DAG by `airflow dags test`."""
        run = self.stage.run(self.run_key, **{"source": str(self.ground.source), **PARAMS, **self.params})
        self.ground.proxy.lift()  # the mailbox is asked through it as well
        last = (self.mailbox.read() or [{"Message": "", "Subject": ""}])[-1]
        return Ended(run.ok, run.log, **_words(last))

    def run_beside(self) -> tuple[Ended, Ended]:
        """Two runs of this key at once, by two Airflows, each with a database of its own.

        Both have come to make their cluster before either may ask for it.
        """
        both = threading.Barrier(2)
        self.add(Meanwhile(lambda _: both.wait(1200), "PUT", path=f"{self.prefix}/_LOCK", times=2))
        second = self.ground.beside(self.stage)
        params = {"source": str(self.ground.source), **PARAMS, **self.params}
        processes = [(stage, stage.start(self.run_key, **params)) for stage in (self.stage, second)]
        runs = [stage.ended(process, self.run_key) for stage, process in processes]
        self.ground.proxy.lift()
        told = {"failed" in message["Subject"]: message for message in self.mailbox.read()}
        nothing = {"Message": "", "Subject": ""}
        ended = [Ended(run.ok, run.log, **_words(told.get(not run.ok, nothing))) for run in runs]
        return ended[0], ended[1]

    def goes_through(self, run: Callable[[], Ended] | None = None) -> Ended:
        """The run ends well, as if nothing had been done to it."""
        started = time.monotonic()
        ended = (run or self.run)()
        self.row["seconds"] = round(time.monotonic() - started)
        self._struck()
        assert ended.ok, f"{ended.told}\n{ended.log[-6000:]}"
        promises.held(self.stage, self.run_key, self.undisturbed)
        promises.nothing_alive(self.stage)
        self._judged("succeeded")
        return ended

    def fails(
        self,
        cause: str,
        run: Callable[[], Ended] | None = None,
        again: Callable[[], None] | None = None,
        results_stand: bool = False,
    ) -> Ended:
        """The run fails and tells its cause (a pattern); without the fault the same key goes through.

        ``again``: what somebody has to mend by hand before the run is triggered again. ``results_stand``:
        only the teardown fails, and all that the run computed is there.
        """
        started = time.monotonic()
        ended = (run or self.run)()
        self.row["seconds"] = round(time.monotonic() - started)
        self._struck()
        assert not ended.ok, "the run did not fail"
        found = re.search(cause, ended.told)
        assert found, f"{cause!r} is not told: {ended.told}\n{ended.log[-6000:]}"
        self.row["cause"] = " ".join(found[0].split())
        promises.nothing_alive(self.stage)
        judge = promises.held if results_stand else promises.nothing_false
        judge(self.stage, self.run_key, self.undisturbed)
        self.ground.proxy.clear()
        if again:
            again()
        resumed = self.run()
        assert resumed.ok, f"cannot be resumed: {resumed.told}\n{resumed.log[-6000:]}"
        promises.held(self.stage, self.run_key, self.undisturbed)
        promises.nothing_alive(self.stage)
        self._judged("failed with its cause; resumed")
        return ended

    def _struck(self) -> None:
        self.ground.proxy.lift()
        assert not self.ground.proxy.errors, f"the fault could not be made: {self.ground.proxy.errors}"
        idle = [fault for fault in self._faults if not fault.caught.total()]
        assert not idle, f"the fault did not strike: {idle}"

    def _judged(self, outcome: str) -> None:
        self.row["outcome"] = outcome
        self.row["recomputed"] = promises.recomputed(self.stage, self.run_key)


def _words(message: Mapping[str, str]) -> dict[str, str]:
    return {"told": message["Message"], "subject": message["Subject"]}
