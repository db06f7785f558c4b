"""Where faults are injected: a local AWS, Airflow, and a proxy that stands between them and everyone.

Airflow reaches all of AWS through the proxy; the steps of a cluster, its bootstrap action and its logs
reach S3 through it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
from components import Components
from faulty_aws import FaultyAws
from stage import Stage

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo import run
from fruit_pipeline.demo.local_account import set_up_account
from fruit_pipeline.sample.drawn_images import draw_folder

REGION = "eu-west-3"
PARAMS = {"alpha": 0.35, "weights": "random:0", "input_size": 96, "components": 10}
IMAGES, REJECTS = 99, 3  # of the source below, in sixteen shards or so

# The SDK and Airflow wait for minutes in all between their tries; only these waits are shortened.
HASTY = """
from botocore import retryhandler
from botocore.retries import standard
retryhandler.delay_exponential = lambda *_, **__: 0.05
standard.ExponentialBackoff.delay_amount = lambda *_: 0.05
"""


class LocalAws:
    """The local AWS as a process that can be killed and started again; its state is in ``directory``."""

    def __init__(self, directory: Path, proxy: FaultyAws, options: Sequence[str] = ()) -> None:
        """``options``: of its command line, such as another Spark master."""
        self.directory = directory
        self._proxy = proxy
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it serves, behind the proxy."""
        command = [sys.executable, "-m", "local_emr", "--port", "0", "--directory", str(self.directory)]
        command += ["--s3-endpoint", self._proxy.endpoint, "--log-seconds", "1"]
        command += ["--java-options=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC", *self._options]
        with (self.directory.parent / "local_emr.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.startswith("local AWS ready"), (self.directory.parent / "local_emr.log").read_text()
        self._proxy.upstream = line.split()[-1]

    def kill(self) -> None:
        """SIGKILL: nothing is saved, no cluster is ended."""
        assert self._process
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=120)


class Ground:
    """A stage behind the proxy, its images, and what an undisturbed run makes of them."""

    def __init__(self, work: Path, proxy: FaultyAws, options: Sequence[str] = ()) -> None:
        self.work = work
        self.proxy = proxy
        self.local_aws = LocalAws(work / "aws", proxy, options)
        self.source = work / "source"
        self.local_aws.directory.mkdir(parents=True)

    def start(self) -> None:
        self.local_aws.start()
        made = run.Demo(
            work=self.work,
            output=self.work / "output",
            source=str(self.source),
            weights="random:0",
            alpha=0.35,
            components=10,
            variance=None,
            run_key="faults",
            region=REGION,
        )
        session = boto3.Session("local", "local", region_name=REGION)
        behind = Aws(session, REGION, self.proxy.endpoint)
        set_up_account(behind, run.BUCKET)
        (self.work / "hasty").mkdir()
        (self.work / "hasty" / "sitecustomize.py").write_text(HASTY)
        path = [str(self.work / "hasty"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **run.airflow_environment(made, behind),
            "AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "1",
            "PYTHONPATH": os.pathsep.join(path),
        }
        run.migrate(made, environment)
        self.stage = Stage(made, behind, environment)
        draw_images(self.source)

    def beside(self, stage: Stage) -> Stage:
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


def conf_of(ground: Ground, run_key: str) -> dict[str, Any]:
    """The conf of a DAG run."""
    return {"run_key": run_key, "source": str(ground.source), **PARAMS}
