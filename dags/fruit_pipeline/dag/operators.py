"""The Amazon provider's EMR operators, where a retry or a failure must not cost money.

What the provider's own do not: find a cluster or step that an earlier attempt of the task made,
say why a step failed and where its log lies, and terminate by tag, so that a cluster whose id
nobody got to know ends too. What AWS refuses is one line that says what to do; it is tried again
where it may pass, and fails for good where it cannot.
"""

from __future__ import annotations

import time
from typing import Any, cast

from airflow.providers.amazon.aws.operators.emr import (
    EmrAddStepsOperator,
    EmrCreateJobFlowOperator,
    EmrTerminateJobFlowOperator,
)
from airflow.providers.amazon.aws.utils.suppress import return_on_error
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore.exceptions import BotoCoreError, ClientError

from fruit_pipeline.aws import lock
from fruit_pipeline.aws.clusters import DAG_RUN_TAG, ENDING, RUN_TAG, TERMINAL, alive_of_run
from fruit_pipeline.aws.console_urls import browser_url
from fruit_pipeline.aws.errors import explained, may_be_done
from fruit_pipeline.aws.failures import explain_cluster
from fruit_pipeline.dag import tasks
from fruit_pipeline.dag.errors import aws_of, patiently, refuse_cleanly
from fruit_pipeline.run.request import key_of
from image_features.errors import JobError

_STEP_USABLE = ["PENDING", "RUNNING", "COMPLETED"]
_ONCE = {"retries": {"total_max_attempts": 1}}
_LOOKS = 3  # for a cluster whose making was not answered: EMR may list it a moment later


class CreateClusterOnce(EmrCreateJobFlowOperator):
    """Creates the run's cluster, or takes over the living one that carries the run's tag.

    ``RunJobFlow`` has no client token. So it is sent once, without boto3's retries: after a lost
    answer the cluster is looked for, ``waiter_delay`` seconds apart, and again by the task's retry.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            botocore_config=_ONCE,
            deferrable=False,
            wait_policy=None,
            emr_conn_id=None,  # the request is whole
            **kwargs,
        )
        self._job_flow_id: str | None = None  # the provider's, which sets it when the cluster is made

    @patiently
    def execute(self, context: Any) -> str | None:
        request = cast("dict[str, Any]", self.job_flow_overrides)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        dag_run = tags.get(DAG_RUN_TAG)
        if not dag_run:  # made by hand, as that of the notebooks
            return self._made(context, tags[RUN_TAG])
        from fruit_pipeline.checks.preflight import check_owners

        aws, run_uri = aws_of(self), request["LogUri"].rstrip("/").rpartition("/")[0]
        with lock.held(aws.storage(run_uri), dag_run):
            # Only under the lock does a look tell: nobody of this key makes a cluster at the same moment.
            check_owners(aws, tags[RUN_TAG], dag_run)
            return self._made(context, tags[RUN_TAG])

    def _made(self, context: Any, run_key: str) -> str | None:
        found = self._found(run_key)
        if found:
            return found
        try:
            return super().execute(context)
        except (ClientError, BotoCoreError) as error:
            if self._job_flow_id:
                # It is made: its id must not get lost for want of a link to its logs.
                self.log.warning("cluster %s has no link to its logs: %s", self._job_flow_id, error)
                return self._job_flow_id
            if not may_be_done(error):
                raise
            self.log.warning("whether a cluster was made is not known: %s", error)
            for _ in range(_LOOKS):
                time.sleep(self.waiter_delay)
                if found := self._found(run_key):
                    return found
            raise

    def _found(self, run_key: str) -> str | None:
        found = alive_of_run(aws_of(self).client("emr"), run_key)  # looking may be tried again
        if not found:
            return None
        self.log.info("cluster %s of this run is alive already: taken over", found[0])
        return found[0]


class AddStepOnce(EmrAddStepsOperator):
    """Adds one step, or takes over the same one that is waiting, running or done.

    ``AddJobFlowSteps`` has no client token either: it is sent once, and the task's retry looks first.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(botocore_config=_ONCE, **kwargs)

    @patiently
    def execute(self, context: Any) -> list[str]:
        emr = aws_of(self).client("emr")  # looking may be tried again
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


class TerminateClusters(EmrTerminateJobFlowOperator):
    """Terminates every living cluster that the DAG run made and waits until AWS says that it has ended.

    By tag, not only by id: a create task that was killed before it told its id leaves one too. A cluster that
    another DAG run made for the same run key is left alone: this one was refused for it.
    """

    template_fields = (*EmrTerminateJobFlowOperator.template_fields, "run_key")

    def __init__(self, *, run_key: str, job_flow_id: str = "", **kwargs: Any) -> None:
        """``job_flow_id``: the run's cluster, where it is known; terminated though AWS may not list it."""
        super().__init__(job_flow_id=job_flow_id, deferrable=False, **kwargs)
        self.run_key = run_key

    def execute(self, context: Any) -> None:
        """Raises AirflowException, which is retried, for all that AWS refuses: a cluster costs money."""
        told: list[str] = []
        try:
            with explained(f"run {self.run_key}", aws_of(self), patient=True):
                self._terminate(told, key_of(context["run_id"]) if "run_id" in context else None)
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

    def _lives(self, emr: Any) -> bool:
        """Whether the run's cluster does, which a list may not have yet."""
        answer = emr.describe_cluster(ClusterId=self.job_flow_id)
        return answer["Cluster"]["Status"]["State"] not in ENDING

    def _terminate(self, told: list[str], dag_run: str | None) -> None:
        """``told``: is given the clusters that AWS has taken the order for."""
        emr: Any = self.hook.conn
        try:
            alive = alive_of_run(emr, self.run_key, dag_run=dag_run)
            if self.job_flow_id and self.job_flow_id not in alive and self._lives(emr):
                alive.append(self.job_flow_id)
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
        clusters = sorted({*alive, *alive_of_run(emr, self.run_key, ending=True, dag_run=dag_run)})
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
        """``run``: the run's request, as the preflight returns it."""
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
