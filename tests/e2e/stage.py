"""What the end-to-end tests run DAGs with."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

from fruit_pipeline import demo
from fruit_pipeline.aws import Aws
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

    demo: demo.Demo
    aws: Aws
    environment: dict[str, str]

    def start(self, **params: Any) -> subprocess.Popen[str]:
        """Start one run of the DAG with these Params."""
        command = [sys.executable, "-m", "airflow", "dags", "test", demo.DAG_ID, "--conf", json.dumps(params)]
        return subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, run_key: str, **params: Any) -> DagRun:
        return self.ended(self.start(run_key=run_key, **params), run_key)

    def ended(self, process: subprocess.Popen[str], run_key: str) -> DagRun:
        log, _ = process.communicate(timeout=600)
        return DagRun(process.returncode == 0, log, self.run_storage(run_key))

    def run_storage(self, run_key: str) -> Storage:
        return self.aws.storage(f"s3://{demo.BUCKET}/runs/{run_key}")

    def clusters(self, *states: str) -> list[dict[str, Any]]:
        return self.aws.client("emr").list_clusters(ClusterStates=list(states))["Clusters"]

    def with_environment(self, **variables: str) -> Stage:
        return replace(self, environment={**self.environment, **variables})
