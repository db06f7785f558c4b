"""The Amazon provider's EMR operators, where a retry or a failure must not cost money.

What the provider's own do not: find a cluster or step that an earlier attempt of the task made,
say why a step failed and where its log lies, and terminate by tag, so that a cluster whose id
nobody got to know ends too. What AWS refuses is one line that says what to do; it is tried again
where it may pass, and fails for good where it cannot.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow.providers.amazon.aws.utils.suppress import return_on_error
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from fruit_pipeline import tasks
from fruit_pipeline.aws import Aws
from fruit_pipeline.calls import explained
from fruit_pipeline.cluster import ENDING, RUN_TAG, TERMINAL, alive_of_run
from fruit_pipeline.failures import explain_cluster, explain_step, last_lines, log_of_step
from fruit_pipeline.links import browser_url, step_log_url
from fruit_pipeline.triggers import ClusterTrigger, StepTrigger
from image_features.errors import JobError
from image_features.storage import StorageError

_STEP_USABLE = ["PENDING", "RUNNING", "COMPLETED"]

Work = TypeVar("Work", bound=Callable[..., Any])


def refuse_cleanly(work: Work) -> Work:
    """End a task at once on bad input: a retry would only say it again. Storage trouble is retried."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except StorageError:
            raise
        except JobError as error:
            raise AirflowFailException(str(error)) from None

    return wrapped  # type: ignore[return-value]


def _patiently(work: Work) -> Work:
    """Say what AWS refuses an operator; fail for good where a retry would only say it again."""

    @functools.wraps(work)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        what = f"cluster {self.job_flow_id}" if hasattr(self, "job_flow_id") else "a new cluster"
        try:
            with explained(what, _aws_of(self), patient=True):
                return work(self, *args, **kwargs)
        except StorageError as error:
            raise AirflowException(str(error)) from None
        except JobError as error:
            raise AirflowFailException(str(error)) from None

    return wrapped  # type: ignore[return-value]


def _aws_of(operator: Any) -> Aws:
    return Aws.from_connection(operator.aws_conn_id, operator.region_name)


class CreateClusterOnce(EmrCreateJobFlowOperator):
    """Creates the run's cluster, or takes over the living one that carries the run's tag.

    ``RunJobFlow`` has no client token. So it is sent once, without boto3's retries: after a lost
    answer the task's retry looks first, and finds the cluster.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            botocore_config={"retries": {"total_max_attempts": 1}},
            deferrable=False,
            wait_policy=None,
            emr_conn_id=None,  # the request is whole
            **kwargs,
        )
        self._job_flow_id: str | None = None  # the provider's, which sets it when the cluster is made

    @_patiently
    def execute(self, context: Any) -> str | None:
        request = cast("dict[str, Any]", self.job_flow_overrides)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        found = alive_of_run(_aws_of(self).client("emr"), tags[RUN_TAG])  # looking may be tried again
        if found:
            self.log.info("cluster %s of this run is alive already: taken over", found[0])
            return found[0]
        try:
            return super().execute(context)
        except (ClientError, BotoCoreError) as error:
            if not self._job_flow_id:
                raise
            # It is made: its id must not get lost for want of a link to its logs.
            self.log.warning("cluster %s has no link to its logs: %s", self._job_flow_id, error)
            return self._job_flow_id


class AddStepOnce(EmrAddStepsOperator):
    """Adds one step, or takes over the same one that is waiting, running or done."""

    @_patiently
    def execute(self, context: Any) -> list[str]:
        emr: Any = self.hook.conn
        (step,) = cast("list[dict[str, Any]]", self.steps)
        pages = emr.get_paginator("list_steps").paginate(ClusterId=self.job_flow_id, StepStates=_STEP_USABLE)
        found = [s["Id"] for page in pages for s in page["Steps"] if _same_step(s, step)]
        if found:
            self.log.info("step %s was added already: taken over", found[0])
            return found[:1]
        try:
            return super().execute(context)
        except ClientError:
            state = emr.describe_cluster(ClusterId=self.job_flow_id)["Cluster"]["Status"]["State"]
            if state not in ENDING:
                raise
            raise AirflowFailException(explain_cluster(emr, str(self.job_flow_id))) from None


def _same_step(found: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a listed step is the wanted one: by its name and its command."""
    return found["Name"] == wanted["Name"] and found["Config"]["Args"] == wanted["HadoopJarStep"]["Args"]


class ClusterReady(EmrJobFlowSensor):
    """Waits until the cluster runs steps; says why when it ends before, or takes too long.

    The provider's deferrable sensor waits for the end of the cluster instead.
    """

    template_fields = (*EmrJobFlowSensor.template_fields, "limit_seconds")

    def __init__(self, *, limit_seconds: float | None = None, **kwargs: Any) -> None:
        """``limit_seconds``: of the cluster's age; then the task fails for good, and the teardown ends it.

        Without one, it is as long as ``max_attempts`` looks take.
        """
        super().__init__(
            target_states=["RUNNING", "WAITING"],
            failed_states=ENDING,
            deferrable=True,
            **kwargs,
        )
        self.limit_seconds = limit_seconds or self.poke_interval * self.max_attempts

    @_patiently
    def execute(self, context: Any) -> None:
        if self._ready(context):
            return
        attempts = _attempts(self._seconds_left(), self.poke_interval)
        self.defer(
            timeout=_deferral(attempts, self.poke_interval),
            trigger=ClusterTrigger(
                job_flow_id=self.job_flow_id,
                aws_conn_id=self.aws_conn_id,
                waiter_delay=int(self.poke_interval),
                attempts=attempts,
                region_name=self.region_name,
            ),
            method_name="execute_complete",
        )

    @_patiently
    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        # The trigger's word is not enough: it may have lost sight of a cluster that is fine.
        if not self._ready(context):
            raise AirflowException(f"lost sight of cluster {self.job_flow_id}: {event}")

    def _ready(self, context: Any) -> bool:
        try:
            ready = self.poke(context)
        except AirflowException:
            raise AirflowFailException(explain_cluster(self.hook.conn, self.job_flow_id)) from None
        if not ready and self._seconds_left() <= 0:
            raise AirflowFailException(
                f"cluster {self.job_flow_id} does not run steps after {_minutes(self.limit_seconds)}, the "
                "limit for its start; it is terminated. Look in the EMR console at what its instances wait "
                "for, Spot capacity or addresses; then clear the task that created it, and those after it"
            )
        return ready

    def _seconds_left(self) -> float:
        emr: Any = self.hook.conn
        clock = emr.describe_cluster(ClusterId=self.job_flow_id)["Cluster"]["Status"]["Timeline"]
        return float(self.limit_seconds) - _age(clock["CreationDateTime"])


class StepLogLink(BaseOperatorLink):
    """Leads from the task to the step's own log."""

    name = "Step log"

    @return_on_error("")
    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        emr: Any = operator.hook.conn
        step = emr.describe_step(ClusterId=operator.job_flow_id, StepId=operator.step_id)["Step"]
        return step_log_url(log_of_step(emr, operator.job_flow_id, step))


class StepDone(EmrStepSensor):
    """Waits for a step and logs how far it is; when it fails, the error holds its log's last lines.

    A step that runs longer than its limit is cancelled: it costs the whole cluster.
    """

    template_fields = (*EmrStepSensor.template_fields, "limit_seconds", "run_uri")
    operator_extra_links = (*EmrStepSensor.operator_extra_links, StepLogLink())  # type: ignore[assignment]

    def __init__(
        self, *, limit_seconds: float, stage: str | None = None, run_uri: str | None = None, **kwargs: Any
    ) -> None:
        """``limit_seconds``: since the step's start; then it is cancelled and the task fails for good.

        ``stage`` and ``run_uri``: what the step computes and for which run, see StepTrigger.
        """
        super().__init__(deferrable=True, **kwargs)
        self.limit_seconds = limit_seconds
        self.stage = stage
        self.run_uri = run_uri

    @_patiently
    def execute(self, context: Any) -> None:
        if self._done(context):
            return
        attempts = _attempts(self._seconds_left(), self.poke_interval)
        self.defer(
            timeout=_deferral(attempts, self.poke_interval),
            trigger=StepTrigger(
                job_flow_id=self.job_flow_id,
                step_id=self.step_id,
                stage=self.stage,
                run_uri=self.run_uri,
                aws_conn_id=self.aws_conn_id,
                waiter_delay=int(self.poke_interval),
                attempts=attempts,
                region_name=self.region_name,
            ),
            method_name="execute_complete",
        )

    @_patiently
    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        # The trigger's word is not enough: it may have lost sight of a step that is fine.
        if not self._done(context):
            raise AirflowException(f"lost sight of step {self.step_id}: {event}")

    def _done(self, context: Any) -> bool:
        try:
            done = self.poke(context)
        except AirflowException:
            raise AirflowFailException(explain_step(self.hook, self.job_flow_id, self.step_id)) from None
        if not done and self._seconds_left() <= 0:
            self._give_up()
        return done

    def _seconds_left(self) -> float:
        """Until the limit; a step that waits for its turn has all of it."""
        emr: Any = self.hook.conn
        step = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)["Step"]
        start = step["Status"]["Timeline"].get("StartDateTime")
        return float(self.limit_seconds) - (_age(start) if start else 0)

    def _give_up(self) -> None:
        emr: Any = self.hook.conn
        answer = emr.cancel_steps(
            ClusterId=self.job_flow_id,
            StepIds=[self.step_id],
            StepCancellationOption="TERMINATE_PROCESS",
        )
        self.log.info("cancelling the step: %s", answer.get("CancelStepsInfoList"))
        step = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)["Step"]
        log = log_of_step(emr, self.job_flow_id, step)
        lines = last_lines(self.hook, log)
        raise AirflowFailException(
            f"step {self.step_id} ({step['Name']}) has run for {_minutes(self.limit_seconds)}, its limit "
            "(three times its estimate and 15 minutes): it was cancelled, and the cluster is terminated. "
            f"What held it up stands in its log: {log}. What it finished is kept: trigger again with "
            "this run's run_key, perhaps on a larger shape" + (f"\n{lines}" if lines else "")
        )


def _age(start: datetime) -> float:
    return (datetime.now(UTC) - start).total_seconds()


def _minutes(seconds: float) -> str:
    return f"{float(seconds) / 60:.0f} min"


def _attempts(seconds: float, poll: float) -> int:
    """Looks of a trigger that reach just over ``seconds``."""
    return math.ceil(max(seconds, 0) / poll) + 1


def _deferral(attempts: int, poll: float) -> timedelta:
    """Airflow's own timeout of a trigger, which fails the task without a word: later than its last look."""
    return timedelta(seconds=attempts * poll + 300)


class TerminateClusters(EmrTerminateJobFlowOperator):
    """Terminates every living cluster of the run and waits until AWS says that it has ended.

    By tag, not only by id: a create task that was killed before it told its id leaves one too.
    """

    template_fields = (*EmrTerminateJobFlowOperator.template_fields, "run_key")

    def __init__(self, *, run_key: str, job_flow_id: str = "", **kwargs: Any) -> None:
        """``job_flow_id``: the run's cluster, where it is known; terminated also when AWS lists none."""
        super().__init__(job_flow_id=job_flow_id, deferrable=False, **kwargs)
        self.run_key = run_key

    def execute(self, context: Any) -> None:
        """Raises AirflowException, which is retried, for all that AWS refuses: a cluster costs money."""
        told: list[str] = []
        try:
            with explained(f"run {self.run_key}", _aws_of(self), patient=True):
                self._terminate(told)
        except JobError as error:
            raise AirflowException(f"{self._warning(told)}: {error}. Then clear this task") from None

    def _warning(self, told: list[str]) -> str:
        if told:
            return f"cluster {', '.join(told)} was told to end, and was not seen to, look in the EMR console"
        which = f"CLUSTER {self.job_flow_id}" if self.job_flow_id else f"A CLUSTER OF RUN {self.run_key}"
        return (
            f"{which} MAY STILL BE ALIVE, AND COST MONEY, until it is terminated in the EMR console or ends "
            "by its idle timeout"
        )

    def _terminate(self, told: list[str]) -> None:
        """``told``: is given the clusters that AWS has taken the order for."""
        emr: Any = self.hook.conn
        try:
            alive = alive_of_run(emr, self.run_key)
        except ClientError:
            if self.job_flow_id:  # what may not be looked for can be terminated all the same
                emr.terminate_job_flows(JobFlowIds=[self.job_flow_id])
                told.append(self.job_flow_id)
            raise
        if alive:
            self.log.info("terminating %s", ", ".join(alive))
            try:
                emr.set_termination_protection(JobFlowIds=alive, TerminationProtected=False)
            except ClientError as error:  # needed only where somebody set it by hand
                self.log.warning("termination protection is left as it is: %s", error)
            emr.terminate_job_flows(JobFlowIds=alive)
            told += alive
        # Also those that an earlier attempt of this task terminated and did not see end.
        clusters = sorted({*alive, *alive_of_run(emr, self.run_key, ending=True)})
        if not clusters:
            self.log.info("no cluster of run %s is alive", self.run_key)
            return
        for _ in range(self.waiter_max_attempts):
            states = {
                cluster: emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"]
                for cluster in clusters
            }
            if all(state in TERMINAL for state in states.values()):
                self.log.info("terminated: %s", states)
                return
            time.sleep(self.waiter_delay)
        raise AirflowException(f"clusters have not ended, look at them in the EMR console: {states}")


class ReportLink(BaseOperatorLink):
    """Leads from the task to the report that it made."""

    name = "Report"

    @return_on_error("")
    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return browser_url(operator.place) if operator.place else ""


class MakeReport(BaseOperator):
    """Makes a run's report.html, which the link of its page in Airflow shows."""

    template_fields = ("run",)
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, run: Any, **kwargs: Any) -> None:
        """``run``: the run's request, as the guard returns it."""
        super().__init__(**kwargs)
        self.run = run
        self.place: str | None = None

    @refuse_cleanly
    def execute(self, context: Any) -> dict[str, Any]:
        made = tasks.make_report(self.run)
        self.place = made["place"]
        # Airflow keeps the link on the task's page of details; its log is what opens first.
        self.log.info("the report: %s", browser_url(made["place"]))
        return made
