"""Sensors for clusters and steps. Each has a time limit, and explains a cluster or step that failed.

A sensor polls, defers to a trigger, and polls again when the trigger wakes it. Ages are measured by AWS's
clock.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow.providers.amazon.aws.utils.suppress import return_on_error
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fruit_pipeline.aws import clock, clusters
from fruit_pipeline.aws.console_urls import step_log_url
from fruit_pipeline.aws.failures import explain_cluster, explain_step, last_lines, log_of_step
from fruit_pipeline.dag.errors import aws_of, explain_aws_errors
from fruit_pipeline.dag.triggers import ClusterTrigger, StepTrigger

_BUSY = ["RUNNING", "CANCEL_PENDING"]


class ClusterReady(EmrJobFlowSensor):
    """Waits until the cluster runs steps; fails with the reason if it ends before, or takes too long.

    The provider's deferrable sensor waits for the end of the cluster instead.
    """

    template_fields = (*EmrJobFlowSensor.template_fields, "limit_seconds")

    def __init__(self, *, limit_seconds: float | None = None, **kwargs: Any) -> None:
        """``limit_seconds``: largest age of the cluster. Above it, the task fails without a retry.

        Default: as long as ``max_attempts`` polls take.
        """
        super().__init__(
            target_states=clusters.READY,
            failed_states=clusters.ENDING,
            deferrable=True,
            **kwargs,
        )
        self.limit_seconds = limit_seconds or self.poke_interval * self.max_attempts

    @explain_aws_errors
    def execute(self, context: Any) -> None:
        if not self._ready(context):
            _defer(self, ClusterTrigger, self._seconds_left())

    @explain_aws_errors
    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        # The trigger may have lost contact with EMR while the cluster is healthy: ask EMR again.
        if not self._ready(context):
            raise AirflowException(f"lost contact with cluster {self.job_flow_id}: {event}")

    def _ready(self, context: Any) -> bool:
        try:
            ready = self.poke(context)
        except AirflowException:
            cluster = clusters.describe(self.hook.conn, self.job_flow_id)
            raise AirflowFailException(explain_cluster(cluster)) from None
        if not ready and self._seconds_left() <= 0:
            raise AirflowFailException(
                f"cluster {self.job_flow_id} does not run steps after {_minutes(self.limit_seconds)}, the "
                "limit for its start; it is terminated. Look in the EMR console at what its instances wait "
                "for, Spot capacity or addresses; then clear the task that created it, and those after it"
            )
        return ready

    def _seconds_left(self) -> float:
        cluster = clusters.describe(self.hook.conn, self.job_flow_id)
        return _left(self.limit_seconds, cluster.created, cluster.server_time)


class StepLogLink(BaseOperatorLink):
    """Link from the task to the step's own log."""

    name = "Step log"

    @return_on_error("")
    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        emr: Any = operator.hook.conn
        step = emr.describe_step(ClusterId=operator.job_flow_id, StepId=operator.step_id)["Step"]
        return step_log_url(log_of_step(clusters.describe(emr, operator.job_flow_id), step))


class StepDone(EmrStepSensor):
    """Waits for a step and logs its progress; if the step fails, the error has the last lines of its log.

    A step that exceeds its limit is cancelled, because the whole cluster is paid for meanwhile.
    """

    template_fields = (*EmrStepSensor.template_fields, "limit_seconds", "run_uri")
    operator_extra_links = (*EmrStepSensor.operator_extra_links, StepLogLink())  # type: ignore[assignment]

    def __init__(
        self, *, limit_seconds: float, stage: str | None = None, run_uri: str | None = None, **kwargs: Any
    ) -> None:
        """``limit_seconds``: since the step's start. Above it, the task fails without a retry.

        ``stage`` and ``run_uri``: what the step computes and for which run, see StepTrigger.
        """
        super().__init__(deferrable=True, **kwargs)
        self.limit_seconds = limit_seconds
        self.stage = stage
        self.run_uri = run_uri

    @explain_aws_errors
    def execute(self, context: Any) -> None:
        if not self._done(context):
            own = {"step_id": self.step_id, "stage": self.stage, "run_uri": self.run_uri}
            _defer(self, StepTrigger, self._seconds_left(), **own)

    @explain_aws_errors
    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        # The trigger may have lost contact with EMR while the step is healthy: ask EMR again.
        if not self._done(context):
            raise AirflowException(f"lost contact with step {self.step_id}: {event}")

    def _done(self, context: Any) -> bool:
        try:
            done = self.poke(context)
        except AirflowException:
            explanation = explain_step(aws_of(self), self.job_flow_id, self.step_id)
            raise AirflowFailException(explanation) from None
        if not done and self._seconds_left() <= 0:
            self._cancel()
        return done

    def _seconds_left(self) -> float:
        """Until the limit; all of it for a step that another step keeps waiting."""
        emr: Any = self.hook.conn
        answer = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)
        times = answer["Step"]["Status"]["Timeline"]
        start = times.get("StartDateTime")
        if not start:
            free = self._free_since(emr)
            if not free:
                return float(self.limit_seconds)
            start = max(free, times["CreationDateTime"])
        return _left(self.limit_seconds, start, clock.server_time(answer))

    def _free_since(self, emr: Any) -> datetime | None:
        """Since when the cluster could have started the step; None while it cannot."""
        cluster = clusters.describe(emr, self.job_flow_id)
        newest = emr.list_steps(ClusterId=self.job_flow_id)["Steps"]  # one page, which has the last to end
        others = [step["Status"] for step in newest if step["Id"] != self.step_id]
        if not cluster.ready or any(other["State"] in _BUSY for other in others):
            return None
        ends = [other["Timeline"].get("EndDateTime") for other in others]
        return max([cluster.ready, *filter(None, ends)])

    def _cancel(self) -> None:
        """Cancel the step, and fail without a retry."""
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
                "other step runs: it was cancelled, and the cluster is terminated. Most likely it is a fault "
                "of EMR: trigger again with this run's run_key"
            )
        log = log_of_step(clusters.describe(emr, self.job_flow_id), step)
        lines = last_lines(aws_of(self), log)
        raise AirflowFailException(
            f"{name} has run for {_minutes(self.limit_seconds)}, its limit "
            "(three times its estimate and 15 minutes): it was cancelled, and the cluster is terminated. "
            f"Its log may show what delayed it: {log}. What it finished is kept: trigger again with "
            "this run's run_key, perhaps on a larger shape" + (f"\n{lines}" if lines else "")
        )


class ClusterEnded(BaseOperator):
    """Waits until a notebook cluster has ended, or until its time is over.

    Idle timeout or owner may end it. Between two polls the task holds no worker slot: the triggerer wakes it.
    """

    template_fields = ("job_flow_id", "until")

    def __init__(
        self,
        *,
        job_flow_id: str,
        until: str,
        poke_interval: int,
        aws_conn_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> None:
        """``until``: ISO time with its offset; ``poke_interval``: seconds between two polls."""
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.until = until
        self.poke_interval = poke_interval
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    @explain_aws_errors
    def execute(self, context: Any, event: Any = None) -> str:
        """Return the cluster's state at the end of the wait."""
        cluster = clusters.describe(aws_of(self).client("emr"), self.job_flow_id)
        if cluster.state == "TERMINATED_WITH_ERRORS":
            raise AirflowFailException(explain_cluster(cluster))
        if cluster.ending:
            self.log.info("cluster %s is %s", self.job_flow_id, cluster.state)
            return cluster.state
        now, until = datetime.now(UTC), datetime.fromisoformat(str(self.until))
        if now >= until:
            self.log.info("the time of cluster %s is over", self.job_flow_id)
            return cluster.state
        moment = min(until, now + timedelta(seconds=self.poke_interval))
        self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")


def _defer(sensor: Any, trigger: type[ClusterTrigger | StepTrigger], seconds: float, **own: Any) -> None:
    """Defer until the trigger has seen an end state, or for just over ``seconds``."""
    poll = sensor.poke_interval
    # A second more, because AWS's clock is read in whole seconds.
    attempts = math.ceil((max(seconds, 0) + 1) / poll) + 1
    sensor.defer(
        # Airflow's timeout of a trigger fails the task without an explanation: set it after the last poll.
        timeout=timedelta(seconds=attempts * poll + 300),
        trigger=trigger(
            job_flow_id=sensor.job_flow_id,
            aws_conn_id=sensor.aws_conn_id,
            waiter_delay=poll,
            attempts=attempts,
            region_name=sensor.region_name,
            **own,
        ),
        method_name="execute_complete",
    )


def _left(limit: float, start: datetime, now: datetime) -> float:
    """Seconds of ``limit`` that are left at ``now``; both times are of AWS's clock."""
    return float(limit) - (now - start).total_seconds()


def _minutes(seconds: float) -> str:
    return f"{float(seconds) / 60:.0f} min"
