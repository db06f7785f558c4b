"""A stage: Airflow's home, a local AWS with an account, and runs of the DAG on them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.demo.local_account import set_up_account
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.contract import shard_number
from image_features.storage import Storage
from support.local_aws import REGION

SMALL_MODEL = {"alpha": 0.35, "weights": "random:0"}
"""Params of a quick run."""


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
    """Airflow's environment and an AWS; runs of the DAG are processes of ``airflow dags test``."""

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

    def copy_home(self, folder: Path) -> Path:
        """Copy what is deployed, for a test to break; returns the folder, a value for FRUITS_HOME."""
        for part in ("spark_jobs", "bootstrap", "emr_configs"):
            shutil.copytree(Path(self.environment["FRUITS_HOME"]) / part, folder / part)
        return folder

    def with_environment(self, **variables: str) -> Stage:
        return replace(self, environment={**self.environment, **variables})


def demo_in(work: Path) -> demo_run.Demo:
    """A demo's folders below ``work``; its own Params are not used by a stage."""
    return demo_run.Demo(
        work=work,
        output=work / "output",
        source="",
        weights="random:0",
        alpha=0.35,
        components=10,
        variance=None,
        run_key="tests",
        region=REGION,
    )


def stage_on(aws: Aws, work: Path, variables: Mapping[str, str] | None = None) -> Stage:
    """A stage on an AWS that runs already: its account is set up, Airflow's database made."""
    demo = demo_in(work)
    set_up_account(aws, demo_run.BUCKET)
    environment = {**demo_run.airflow_environment(demo, aws), **(variables or {})}
    demo_run.migrate(demo, environment)
    return Stage(demo, aws, environment)


@contextmanager
def new_stage(work: Path) -> Iterator[Stage]:
    """A stage with a local AWS of its own, until the block ends."""
    with demo_run.local_aws(demo_in(work)) as aws:
        yield stage_on(aws, work)


def draw_source(folder: Path) -> Path:
    """Draw 20 images of each of 12 labels, beside three files that are no images; returns the folder."""
    draw_folder(folder, per_label=20)
    whole = (folder / "Kiwi" / "000.jpg").read_bytes()
    (folder / "Kiwi" / "empty.jpg").write_bytes(b"")
    (folder / "Lemon" / "cut short é #1%.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Plum" / "a page.png").write_text("<html>not found</html>")
    return folder


def table_of(storage: Storage, prefix: str) -> pa.Table:
    """All shards of a stage's output in order, without what lies in folders of it (``_reused/``)."""
    names = (obj.key.removeprefix(f"{prefix}/") for obj in storage.list(prefix))
    keys = sorted(f"{prefix}/{name}" for name in names if "/" not in name and shard_number(name) is not None)
    return pa.concat_tables(pq.read_table(pa.BufferReader(storage.get(key))) for key in keys)
