"""Waiting for a cluster or a step, with a limit to it; what AWS says of either is explained.

A sensor looks, defers to a trigger, and looks again when that wakes it. Ages are measured on AWS's own
clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow.providers.amazon.aws.utils.suppress import return_on_error
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fruit_pipeline.aws import clock
from fruit_pipeline.aws.clusters import ENDING
from fruit_pipeline.aws.console_urls import step_log_url
from fruit_pipeline.aws.failures import explain_cluster, explain_step, last_lines, log_of_step
from fruit_pipeline.dag.errors import patiently
from fruit_pipeline.dag.triggers import ClusterTrigger, StepTrigger

_BUSY = ["RUNNING", "CANCEL_PENDING"]


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

    @patiently
    def execute(self, context: Any) -> None:
        if not self._ready(context):
            _defer(self, ClusterTrigger, self._seconds_left())

    @patiently
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
        answer = emr.describe_cluster(ClusterId=self.job_flow_id)
        return _left(self.limit_seconds, answer["Cluster"]["Status"]["Timeline"]["CreationDateTime"], answer)


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

    @patiently
    def execute(self, context: Any) -> None:
        if not self._done(context):
            own = {"step_id": self.step_id, "stage": self.stage, "run_uri": self.run_uri}
            _defer(self, StepTrigger, self._seconds_left(), **own)

    @patiently
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
        """Until the limit; a step that waits for its turn behind another one has all of it."""
        emr: Any = self.hook.conn
        answer = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)
        times = answer["Step"]["Status"]["Timeline"]
        start = times.get("StartDateTime")
        if not start:
            free = self._free_since(emr)
            if not free:
                return float(self.limit_seconds)
            start = max(free, times["CreationDateTime"])
        return _left(self.limit_seconds, start, answer)

    def _free_since(self, emr: Any) -> datetime | None:
        """Since when the cluster could have started the step; None while it cannot."""
        cluster = emr.describe_cluster(ClusterId=self.job_flow_id)["Cluster"]["Status"]["Timeline"]
        newest = emr.list_steps(ClusterId=self.job_flow_id)["Steps"]  # a page: the last to end is on it
        others = [step["Status"] for step in newest if step["Id"] != self.step_id]
        if "ReadyDateTime" not in cluster or any(other["State"] in _BUSY for other in others):
            return None
        ends = [other["Timeline"].get("EndDateTime") for other in others]
        return max([cluster["ReadyDateTime"], *filter(None, ends)])

    def _give_up(self) -> None:
        emr: Any = self.hook.conn
        answer = emr.cancel_steps(
            ClusterId=self.job_flow_id,
            StepIds=[self.step_id],
            StepCancellationOption="TERMINATE_PROCESS",
        )
        self.log.info("cancelling the step: %s", answer.get("CancelStepsInfoList"))
        step = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)["Step"]
        name = f"step {self.step_id} ({step['Name']})"
        if "StartDateTime" not in step["Status"]["Timeline"]:
            raise AirflowFailException(
                f"{name} has waited for {_minutes(self.limit_seconds)}, and EMR does not start it, though no "
                "other step runs: it was cancelled, and the cluster is terminated. It is EMR's own fault, as "
                "far as can be seen: trigger again with this run's run_key"
            )
        log = log_of_step(emr, self.job_flow_id, step)
        lines = last_lines(self.hook, log)
        raise AirflowFailException(
            f"{name} has run for {_minutes(self.limit_seconds)}, its limit "
            "(three times its estimate and 15 minutes): it was cancelled, and the cluster is terminated. "
            f"What held it up stands in its log: {log}. What it finished is kept: trigger again with "
            "this run's run_key, perhaps on a larger shape" + (f"\n{lines}" if lines else "")
        )


def _defer(sensor: Any, trigger: type[ClusterTrigger | StepTrigger], seconds: float, **own: Any) -> None:
    """Have the sensor woken by its trigger when that has seen an end, or after just over ``seconds``."""
    poll = sensor.poke_interval
    # A second more: AWS's clock is read to a second.
    attempts = math.ceil((max(seconds, 0) + 1) / poll) + 1
    sensor.defer(
        # Airflow's own timeout of a trigger, which fails the task without a word: later than its last look.
        timeout=timedelta(seconds=attempts * poll + 300),
        trigger=trigger(
            job_flow_id=sensor.job_flow_id,
            aws_conn_id=sensor.aws_conn_id,
            waiter_delay=int(poll),
            attempts=attempts,
            region_name=sensor.region_name,
            **own,
        ),
        method_name="execute_complete",
    )


def _left(limit: float, start: datetime, answer: Mapping[str, Any]) -> float:
    """Seconds of ``limit`` that were left when AWS gave the answer, of what it says began at ``start``."""
    return float(limit) - (clock.told_at(answer) - start).total_seconds()


def _minutes(seconds: float) -> str:
    return f"{float(seconds) / 60:.0f} min"
