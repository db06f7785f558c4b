"""The testbed of faults: a local AWS, an Airflow, and a proxy between AWS and all its clients.

Airflow reaches all of AWS through the proxy; the steps of a cluster, its bootstrap action and its logs
reach S3 through it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo import run
from fruit_pipeline.sample.drawn_images import draw_folder
from support.airflow_components import Components
from support.faulty_aws import FaultyAws
from support.local_aws import REGION, AwsProcess
from support.mailbox import Mailbox
from support.stages import Stage, stage_on

PARAMS = {"alpha": 0.35, "weights": "random:0", "input_size": 96, "components": 10}
IMAGES, REJECTS = 99, 3  # of the source below, in sixteen shards or so

# The SDK and Airflow wait for minutes in all between their tries; only these waits are shortened.
SHORT_WAITS = """
from botocore import retryhandler
from botocore.retries import standard
retryhandler.delay_exponential = lambda *_, **__: 0.05
standard.ExponentialBackoff.delay_amount = lambda *_: 0.05
"""


class Testbed:
    """A stage behind the proxy, and its images; the local AWS keeps its state in a directory."""

    def __init__(self, work: Path, proxy: FaultyAws, options: Sequence[str] = ()) -> None:
        """``options``: of the local AWS's command line, such as another Spark master."""
        self.work = work
        self.proxy = proxy
        self.source = work / "source"
        self.aws_directory = work / "aws"
        self._options = options
        self._aws: AwsProcess | None = None

    def start(self) -> None:
        self._start_aws()
        (self.work / "short-waits").mkdir()
        (self.work / "short-waits" / "sitecustomize.py").write_text(SHORT_WAITS)
        path = [str(self.work / "short-waits"), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = {"AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "1", "PYTHONPATH": os.pathsep.join(path)}
        session = boto3.Session("local", "local", region_name=REGION)
        self.stage = stage_on(Aws(session, REGION, self.proxy.endpoint), self.work, variables)
        draw_images(self.source)

    def _start_aws(self) -> None:
        self._aws = AwsProcess(
            *("--directory", str(self.aws_directory), "--s3-endpoint", self.proxy.endpoint),
            *("--log-seconds", "1", "--java-options=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"),
            *self._options,
            log=self.work / "local_emr.log",
        )
        self.proxy.upstream = self._aws.endpoint

    def restart_aws(self) -> None:
        """Kill the local AWS, so that it saves nothing and ends no cluster, and start it again."""
        assert self._aws
        self._aws.stop(signal.SIGKILL)
        self._start_aws()

    def stop(self) -> None:
        if self._aws:
            self._aws.stop()

    def new_mailbox(self) -> Mailbox:
        return Mailbox(self.stage.aws, "runs")

    def second_airflow(self, stage: Stage) -> Stage:
        """A second Airflow, with a database and logs of its own, for the same account."""
        home = self.work / "beside"
        environment = {**stage.environment, "AIRFLOW_HOME": str(home / "airflow")}
        made = replace(stage.demo, work=home)
        if not home.is_dir():
            run.migrate(made, environment)
        return replace(stage, demo=made, environment=environment)

    @contextmanager
    def airflow(self, **variables: str) -> Iterator[Components]:
        """Airflow's own processes on the stage, with a database of their own; the DAG is awake."""
        home = self.work / "components"
        own = {**self.stage.environment, "AIRFLOW_HOME": str(home / "airflow"), **variables}
        made = replace(self.stage.demo, work=home)
        run.migrate(made, own)
        (home / "logs").mkdir(exist_ok=True)
        with Components(own, home / "logs") as components:
            dag = f"/api/v2/dags/{run.DAG_ID}"
            components.api.until(dag, lambda answer: "is_paused" in answer, 300)
            components.api.call("PATCH", f"{dag}?update_mask=is_paused", {"is_paused": False})
            yield components


def draw_images(folder: Path) -> None:
    """IMAGES files, REJECTS of which are no images."""
    draw_folder(folder, per_label=8)
    whole = (folder / "Kiwi" / "000.jpg").read_bytes()
    (folder / "Kiwi" / "empty.jpg").write_bytes(b"")
    (folder / "Lemon" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "Plum" / "page.png").write_text("<html>not found</html>")


def conf_of(testbed: Testbed, run_key: str) -> dict[str, Any]:
    """The conf of a DAG run."""
    return {"run_key": run_key, "source": str(testbed.source), **PARAMS}
