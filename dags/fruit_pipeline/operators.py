"""The Amazon provider's EMR operators, where a retry or a failure must not cost money.

What the provider's own do not: find a cluster or step that an earlier attempt of the task made,
say why a step failed and where its log lies, and terminate by tag, so that a cluster whose id
nobody got to know ends too.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar, cast

from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.sensors.emr import EmrJobFlowSensor, EmrStepSensor
from airflow.providers.amazon.aws.triggers.emr import EmrCreateJobFlowTrigger
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from fruit_pipeline.cluster import ENDING, RUN_TAG, TERMINAL, alive_of_run
from fruit_pipeline.failures import explain_cluster, explain_step
from image_features.errors import JobError
from image_features.storage import StorageError

STEP_FAILED = ["FAILED", "CANCELLED", "INTERRUPTED"]
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

    def execute(self, context: Any) -> str | None:
        request = cast("dict[str, Any]", self.job_flow_overrides)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        found = alive_of_run(self.hook.conn, tags[RUN_TAG])
        if found:
            self.log.info("cluster %s of this run is alive already: taken over", found[0])
            return found[0]
        return super().execute(context)


class AddStepOnce(EmrAddStepsOperator):
    """Adds one step, or takes over the same one that is waiting, running or done."""

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
    """Waits until the cluster runs steps; says why when it ends before.

    The provider's deferrable sensor waits for the end of the cluster instead.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            target_states=["RUNNING", "WAITING"],
            failed_states=ENDING,
            deferrable=True,
            **kwargs,
        )

    def execute(self, context: Any) -> None:
        if self._ready(context):
            return
        self.defer(
            timeout=timedelta(seconds=self.poke_interval * self.max_attempts),
            trigger=EmrCreateJobFlowTrigger(
                job_flow_id=self.job_flow_id,
                aws_conn_id=self.aws_conn_id,
                waiter_delay=int(self.poke_interval),
                waiter_max_attempts=self.max_attempts,
                region_name=self.region_name,
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        # The trigger's word is not enough: it may have lost sight of a cluster that is fine.
        if not self._ready(context):
            raise AirflowException(f"lost sight of cluster {self.job_flow_id}: {event}")

    def _ready(self, context: Any) -> bool:
        try:
            return self.poke(context)
        except AirflowException:
            raise AirflowFailException(explain_cluster(self.hook.conn, self.job_flow_id)) from None


class StepDone(EmrStepSensor):
    """Waits for a step; when it fails, the error holds its last line and names its log."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(deferrable=True, **kwargs)

    def execute(self, context: Any) -> None:
        try:
            super().execute(context)
        except AirflowException as error:
            self._explain(error)

    def execute_complete(self, context: Any, event: dict[str, Any] | None = None) -> None:
        try:
            super().execute_complete(context, event)
        except AirflowException as error:
            self._explain(error)

    def _explain(self, error: AirflowException) -> None:
        emr: Any = self.hook.conn
        status = emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)["Step"]["Status"]
        if status["State"] in STEP_FAILED:
            raise AirflowFailException(explain_step(self.hook, self.job_flow_id, self.step_id)) from None
        if status["State"] != "COMPLETED":
            raise error  # lost sight of it: the retry looks again


class TerminateClusters(EmrTerminateJobFlowOperator):
    """Terminates every living cluster of the run and waits until AWS says that it has ended.

    By tag, not only by id: a create task that was killed before it told its id leaves one too.
    """

    template_fields = (*EmrTerminateJobFlowOperator.template_fields, "run_key")

    def __init__(self, *, run_key: str, job_flow_id: str = "", **kwargs: Any) -> None:
        super().__init__(job_flow_id=job_flow_id, deferrable=False, **kwargs)
        self.run_key = run_key

    def execute(self, context: Any) -> None:
        emr: Any = self.hook.conn
        alive = alive_of_run(emr, self.run_key)
        if alive:
            self.log.info("terminating %s", ", ".join(alive))
            emr.set_termination_protection(JobFlowIds=alive, TerminationProtected=False)
            emr.terminate_job_flows(JobFlowIds=alive)
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
