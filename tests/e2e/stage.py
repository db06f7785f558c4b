"""What the end-to-end tests run DAGs with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo import run as demo_run
from image_features.storage import Storage


@dataclass(frozen=True)
class DagRun:
    """One finished ``airflow dags test``."""

    ok: bool
    log: str
    storage: Storage  # below the run's prefix

    def summary(self) -> dict[str, Any]:
        return json.loads(self.storage.get("summary.json").to_pybytes())


@dataclass(frozen=True)
class Stage:
    """Airflow and a local AWS that stay for the whole session."""

    demo: demo_run.Demo
    aws: Aws
    environment: dict[str, str]

    def start(self, run_key: str, **params: Any) -> subprocess.Popen[bytes]:
        """Start one run of the DAG with these Params."""
        conf = json.dumps({"run_key": run_key, **params})
        command = [sys.executable, "-m", "airflow", "dags", "test", demo_run.DAG_ID, "--conf", conf]
        # A file: a pipe that nobody reads would stop Airflow when it is full.
        with self._log(run_key).open("wb") as log:
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)

    def run(self, run_key: str, **params: Any) -> DagRun:
        return self.ended(self.start(run_key, **params), run_key)

    def ended(self, process: subprocess.Popen[bytes], run_key: str) -> DagRun:
        process.wait(timeout=1800)
        log = self._log(run_key).read_text(errors="replace")
        return DagRun(process.returncode == 0, log, self.run_storage(run_key))

    def _log(self, run_key: str) -> Path:
        return self.demo.work / f"{run_key}.log"

    def run_storage(self, run_key: str) -> Storage:
        return self.aws.storage(f"s3://{demo_run.BUCKET}/runs/{run_key}")

    def clusters(self, *states: str) -> list[dict[str, Any]]:
        return self.aws.client("emr").list_clusters(ClusterStates=list(states))["Clusters"]

    def with_environment(self, **variables: str) -> Stage:
        return replace(self, environment={**self.environment, **variables})


class Told:
    """A stage with a topic, and what has come from it."""

    def __init__(self, stage: Stage) -> None:
        sns, self._sqs = stage.aws.client("sns"), stage.aws.client("sqs")
        topic = sns.create_topic(Name="runs")["TopicArn"]
        self._url = self._sqs.create_queue(QueueName="runs")["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=attributes["Attributes"]["QueueArn"])
        self.stage = stage.with_environment(FRUITS_SNS_TOPIC_ARN=topic)

    def read(self) -> list[dict[str, str]]:
        found = []
        while batch := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for entry in batch:
                found.append(json.loads(entry["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=entry["ReceiptHandle"])
        return sorted(found, key=lambda message: message["Timestamp"])
