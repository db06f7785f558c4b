"""EMR operators on top of the Amazon provider's, made safe where a retry or a failure would cost money.

They add to the provider's operators: a retry reuses the cluster or step that an earlier attempt created, and
the teardown finds clusters by tag, so that it also ends a cluster whose id was lost. Errors of AWS are one
line that says what to do. The task is retried unless a retry cannot help.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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

from fruit_pipeline.aws import clusters, lock
from fruit_pipeline.aws.clusters import DAG_RUN_TAG, RUN_TAG, TERMINAL, clusters_of_run
from fruit_pipeline.aws.console_urls import browser_url
from fruit_pipeline.aws.errors import explained, may_be_done
from fruit_pipeline.aws.failures import explain_cluster
from fruit_pipeline.dag import tasks
from fruit_pipeline.dag.errors import aws_of, explain_aws_errors, fail_on_bad_input
from fruit_pipeline.run.request import key_of
from image_features.errors import JobError

_REUSABLE_STEP_STATES = ["PENDING", "RUNNING", "COMPLETED"]
_ONE_ATTEMPT = {"retries": {"total_max_attempts": 1}}
_SEARCHES = 3  # for a cluster after a lost answer: EMR may list it a moment later


class CreateClusterOnce(EmrCreateJobFlowOperator):
    """Creates the run's cluster, or reuses the living one that carries the run's tag.

    ``RunJobFlow`` has no client token, so it is sent once, without boto3's retries. After a lost answer the
    operator searches for the cluster, ``waiter_delay`` seconds apart; the task's retry searches again.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            botocore_config=_ONE_ATTEMPT,
            deferrable=False,
            wait_policy=None,
            emr_conn_id=None,  # job_flow_overrides is the whole request
            **kwargs,
        )
        self._job_flow_id: str | None = None  # set by the provider's execute once the cluster exists

    @explain_aws_errors
    def execute(self, context: Any) -> str | None:
        request = cast("dict[str, Any]", self.job_flow_overrides)
        tags = clusters.tags_of(request["Tags"])
        dag_run = tags.get(DAG_RUN_TAG)
        if not dag_run:  # a notebook cluster, which has no run to share its key with
            return self._create_or_reuse(context, tags[RUN_TAG])
        from fruit_pipeline.checks.preflight import check_no_other_cluster

        aws, run_uri = aws_of(self), request["LogUri"].rstrip("/").rpartition("/")[0]
        with lock.held(aws.storage(run_uri), dag_run):
            # Under the lock no other DAG run of this key can create a cluster after this check.
            check_no_other_cluster(aws, tags[RUN_TAG], dag_run)
            return self._create_or_reuse(context, tags[RUN_TAG])

    def _create_or_reuse(self, context: Any, run_key: str) -> str | None:
        if cluster_id := self._living_cluster(run_key):
            return cluster_id
        try:
            return super().execute(context)
        except (ClientError, BotoCoreError) as error:
            if self._job_flow_id:
                # The cluster exists: return its id even if the link to its logs could not be made.
                self.log.warning("cluster %s has no link to its logs: %s", self._job_flow_id, error)
                return self._job_flow_id
            if not may_be_done(error):
                raise
            self.log.warning("it is unknown whether AWS created a cluster: %s", error)
            for _ in range(_SEARCHES):
                time.sleep(self.waiter_delay)
                if cluster_id := self._living_cluster(run_key):
                    return cluster_id
            raise

    def _living_cluster(self, run_key: str) -> str | None:
        living = clusters_of_run(aws_of(self).client("emr"), run_key)  # a client that may retry
        if not living:
            return None
        self.log.info("cluster %s of this run is alive already: it is reused", living[0].id)
        return living[0].id


class AddStepOnce(EmrAddStepsOperator):
    """Adds one step, or reuses the same step that is pending, running or completed.

    ``AddJobFlowSteps`` has no client token: it is sent once, and the task's retry first looks for the step.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            botocore_config=_ONE_ATTEMPT,
            # Deferred, it would wait for the end of the step, and its retry would add a failed step again.
            deferrable=False,
            # The retry recognises a step by its arguments, so they must be those of the plan.
            openlineage_inject_parent_job_info=False,
            **kwargs,
        )

    @explain_aws_errors
    def execute(self, context: Any) -> list[str]:
        emr = aws_of(self).client("emr")  # a client that may retry
        (step,) = cast("list[dict[str, Any]]", self.steps)
        pages = emr.get_paginator("list_steps").paginate(
            ClusterId=self.job_flow_id, StepStates=_REUSABLE_STEP_STATES
        )
        same = [listed["Id"] for page in pages for listed in page["Steps"] if _is_same_step(listed, step)]
        if same:
            self.log.info("step %s was added already: it is reused", same[0])
            return same[:1]
        try:
            return super().execute(context)
        except ClientError:
            cluster = clusters.describe(emr, str(self.job_flow_id))
            if not cluster.ending:
                raise
            raise AirflowFailException(explain_cluster(cluster)) from None


def _is_same_step(listed: Mapping[str, Any], step: Mapping[str, Any]) -> bool:
    """Whether a step from ListSteps has the name and command of a requested one."""
    return listed["Name"] == step["Name"] and listed["Config"]["Args"] == step["HadoopJarStep"]["Args"]


class TerminateClusters(EmrTerminateJobFlowOperator):
    """Terminates every living cluster that the DAG run created, and waits until AWS says that it has ended.

    It searches by tag as well as by id, because a create task that was killed may have lost the id. A cluster
    that another DAG run created for the same run key is left alone: that one caused this run to be refused.
    """

    template_fields = (*EmrTerminateJobFlowOperator.template_fields, "run_key")

    def __init__(self, *, run_key: str, job_flow_id: str = "", **kwargs: Any) -> None:
        """``job_flow_id``: the run's cluster if it is known; AWS may not list it yet."""
        super().__init__(job_flow_id=job_flow_id, deferrable=False, **kwargs)
        self.run_key = run_key

    def execute(self, context: Any) -> None:
        """Raises AirflowException, which is retried, for every error of AWS: a cluster costs money."""
        ordered: list[str] = []
        try:
            with explained(f"run {self.run_key}", aws_of(self), patient=True):
                self._terminate(ordered, key_of(context["run_id"]) if "run_id" in context else None)
        except JobError as error:
            raise AirflowException(f"{self._warning(ordered)}: {error}. Then clear this task") from None

    def _warning(self, ordered: list[str]) -> str:
        if ordered:
            return (
                f"AWS was asked to terminate cluster {', '.join(ordered)}, but its end was not confirmed; "
                "check it in the EMR console"
            )
        which = f"CLUSTER {self.job_flow_id}" if self.job_flow_id else f"A CLUSTER OF RUN {self.run_key}"
        return (
            f"{which} MAY STILL BE ALIVE, AND COST MONEY, until it is terminated in the EMR console or ends "
            "by its idle timeout"
        )

    def _terminate(self, ordered: list[str], dag_run: str | None) -> None:
        """Appends to ``ordered`` the clusters whose termination AWS has accepted."""
        emr: Any = self.hook.conn
        try:
            alive = [cluster.id for cluster in clusters_of_run(emr, self.run_key, dag_run=dag_run)]
            # A list may lack a cluster that was just created.
            if (
                self.job_flow_id
                and self.job_flow_id not in alive
                and not clusters.describe(emr, self.job_flow_id).ending
            ):
                alive.append(self.job_flow_id)
        except ClientError:
            if self.job_flow_id:  # it can be terminated even if the search is refused
                emr.terminate_job_flows(JobFlowIds=[self.job_flow_id])
                ordered.append(self.job_flow_id)
            raise
        if alive:
            self.log.info("terminating %s", ", ".join(alive))
            try:
                emr.set_termination_protection(JobFlowIds=alive, TerminationProtected=False)
            except ClientError as error:  # matters only if somebody set the protection by hand
                self.log.warning("termination protection could not be removed: %s", error)
            emr.terminate_job_flows(JobFlowIds=alive)
            ordered += alive
        # Also those that an earlier attempt of this task terminated without seeing their end.
        terminating = clusters_of_run(emr, self.run_key, terminating=True, dag_run=dag_run)
        self._wait(emr, sorted({*alive, *(cluster.id for cluster in terminating)}))

    def _wait(self, emr: Any, cluster_ids: list[str]) -> None:
        if not cluster_ids:
            self.log.info("no cluster of run %s is alive", self.run_key)
            return
        for _ in range(self.waiter_max_attempts):
            states = {cluster_id: clusters.describe(emr, cluster_id).state for cluster_id in cluster_ids}
            if all(state in TERMINAL for state in states.values()):
                self.log.info("terminated: %s", states)
                return
            time.sleep(self.waiter_delay)
        raise AirflowException(f"clusters have not ended, check them in the EMR console: {states}")


class ReportLink(BaseOperatorLink):
    """Link from the task to the report that it wrote."""

    name = "Report"

    @return_on_error("")
    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return browser_url(operator.place) if operator.place else ""


class MakeReport(BaseOperator):
    """Writes a run's report.html, and offers a link to it on the task's page in Airflow."""

    template_fields = ("run",)
    operator_extra_links = (ReportLink(),)

    def __init__(self, *, run: Any, **kwargs: Any) -> None:
        """``run``: the run's request, as the task `preflight` returns it."""
        super().__init__(**kwargs)
        self.run = run
        self.place: str | None = None

    @fail_on_bad_input
    def execute(self, context: Any) -> dict[str, Any]:
        report = tasks.make_report(self.run)
        self.place = report["place"]
        # Airflow shows the link on the task's details page only; its log is what opens first.
        self.log.info("the report: %s", browser_url(report["place"]))
        return report
