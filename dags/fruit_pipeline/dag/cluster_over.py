"""An operator that waits for the end of a notebook cluster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.failures import explain_cluster
from fruit_pipeline.aws.session import Aws


class ClusterOver(BaseOperator):
    """Waits until the cluster has ended, by its idle timeout or its owner, or until its time is over.

    Between two looks it holds no worker: the triggerer wakes it.
    """

    template_fields = ("job_flow_id", "until")

    def __init__(
        self,
        *,
        job_flow_id: str,
        until: str,
        look_seconds: int,
        aws_conn_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.until = until
        self.look_seconds = look_seconds
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Any, event: Any = None) -> str:
        """The cluster's state at the end of the wait."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        emr = Aws.from_connection(self.aws_conn_id, self.region_name).client("emr")
        state: str = emr.describe_cluster(ClusterId=self.job_flow_id)["Cluster"]["Status"]["State"]
        if state == "TERMINATED_WITH_ERRORS":
            raise AirflowFailException(explain_cluster(emr, self.job_flow_id))
        if state in clusters.ENDING:
            self.log.info("cluster %s is %s", self.job_flow_id, state)
            return state
        now, until = datetime.now(UTC), datetime.fromisoformat(str(self.until))
        if now >= until:
            self.log.info("the time of cluster %s is over", self.job_flow_id)
            return state
        moment = min(until, now + timedelta(seconds=self.look_seconds))
        self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")
