"""The demo: starts a local AWS, runs the DAG in Airflow, shows its progress, and copies its output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo import view
from fruit_pipeline.demo.local_account import set_up_account
from fruit_pipeline.model.backbones import DEFAULT_INPUT_SIZE
from fruit_pipeline.run.summary import from_json
from image_features.contract import SUMMARY, RunLayout, RunSummary, shard_number
from image_features.errors import Failed, JobError

BUCKET = "fruits-demo"
DAG_ID = "fruit_features"
PER_LABEL = 40
"""Images of each label that are drawn when none are given."""

_ACCOUNT_SETTINGS = (
    *("FRUITS_SUBNET_ID", "FRUITS_PRIVATE_SUBNET", "FRUITS_SECURITY_CONFIGURATION"),
    *("FRUITS_EMR_SERVICE_ROLE", "FRUITS_EC2_INSTANCE_PROFILE", "FRUITS_SNS_TOPIC_ARN"),
    *("FRUITS_SCHEDULE", "FRUITS_SCHEDULE_PARAMS"),
)
"""Settings that name resources of one AWS account, or of its Airflow."""

_WEIGHTS_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"

console = Console(highlight=False)


@dataclass(frozen=True)
class Demo:
    """One run of the demo: its folders and the DAG's Params."""

    work: Path
    output: Path
    source: str
    weights: str
    alpha: float
    components: int | None
    variance: float | None
    run_key: str
    region: str
    input_size: int = DEFAULT_INPUT_SIZE
    precision: str = "float32"

    @property
    def layout(self) -> RunLayout:
        return RunLayout(f"s3://{BUCKET}/runs/{self.run_key}")

    @property
    def airflow_home(self) -> Path:
        return self.work / "airflow"

    @property
    def log(self) -> Path:
        return self.output / self.run_key / "airflow.log"

    def params(self) -> dict[str, Any]:
        """The Params that differ from the DAG's defaults."""
        return {
            "source": self.source,
            "weights": self.weights,
            "alpha": self.alpha,
            "input_size": self.input_size,
            "precision": self.precision,
            "components": self.components,
            "variance": self.variance,
            "run_key": self.run_key,
        }


def run_demo(demo: Demo) -> RunSummary:
    """Run the demo and return the run's summary. Raises Failed when the run failed."""
    demo.log.parent.mkdir(parents=True, exist_ok=True)
    console.print(f"[bold]1. local AWS[/] (state in {demo.work / 'aws'})")
    with local_aws(demo) as aws:
        set_up_account(aws, BUCKET)
        environment = airflow_environment(demo, aws)
        console.print(f"[bold]2. Airflow[/] (home in {demo.airflow_home})")
        migrate(demo, environment)
        console.print(f"[bold]3. DAG {DAG_ID}[/], run {demo.run_key} (its log: {demo.log})", soft_wrap=True)
        succeeded = run_dag(demo, environment, aws)
        copied = copy_output(demo, aws)
    if not succeeded:
        console.print(f"[bold red]The run failed.[/] {view.failure(demo.log)}", soft_wrap=True)
        raise Failed(f"the run {demo.run_key} failed; its whole log: {demo.log}")
    summary_file = copied / SUMMARY
    summary = from_json(summary_file.read_bytes(), str(summary_file))
    console.print("[bold]4. Result[/]")
    view.print_result(console, summary, copied)
    return summary


@contextmanager
def local_aws(demo: Demo) -> Iterator[Aws]:
    """The local AWS as a process that is stopped when the block ends."""
    import boto3

    directory = demo.work / "aws"
    directory.mkdir(parents=True, exist_ok=True)
    with (demo.work / "local_emr.log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "local_emr", "--port", "0", "--directory", str(directory)),
                # The jobs compute in Python, so a short compilation matters more than fast Java.
                "--java-options=-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
            ],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        if process.stdout is None or not (line := process.stdout.readline()).startswith("local AWS ready"):
            raise JobError(
                f"the local AWS did not start: {(demo.work / 'local_emr.log').read_text().strip()}"
            )
        session = boto3.Session("local", "local", region_name=demo.region)
        yield Aws(session, demo.region, line.split()[-1])
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def airflow_environment(demo: Demo, aws: Aws) -> dict[str, str]:
    """Environment variables of Airflow: the caller's, and this demo's home, connection and settings."""
    home = settings.load().home
    connection = {
        "conn_type": "aws",
        "login": "local",
        "password": "local",
        "extra": {"region_name": aws.region, "endpoint_url": aws.endpoint_url},
    }
    return {
        # Settings of the caller's own Airflow must not reach this one.
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(demo.airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "AIRFLOW_CONN_AWS_LOCAL": json.dumps(connection),
        "FRUITS_AWS_CONN_ID": "aws_local",
        # An s3:// source is in a real account, which boto3 reaches with the caller's credentials.
        "AIRFLOW_CONN_AWS_SOURCE": json.dumps({"conn_type": "aws"}),
        "FRUITS_SOURCE_AWS_CONN_ID": "aws_source",
        "FRUITS_BUCKET": BUCKET,
        "FRUITS_REGION": aws.region,
        "FRUITS_HOME": str(home),
        "FRUITS_NODE_TARGET": "host",
        "FRUITS_POLL_SECONDS": "1",
        # The local account does not have these resources; blank means the default.
        **dict.fromkeys(_ACCOUNT_SETTINGS, ""),
        "PYTHONWARNINGS": "ignore",
    }


def migrate(demo: Demo, environment: dict[str, str]) -> None:
    """Create Airflow's database, unless this version of Airflow has done so already."""
    stamp = demo.airflow_home / f"migrated-{version('apache-airflow')}"
    if stamp.exists():
        return
    demo.airflow_home.mkdir(parents=True, exist_ok=True)
    log = demo.airflow_home / "migrate.log"
    with log.open("w") as sink:
        command = [sys.executable, "-m", "airflow", "db", "migrate"]
        process = subprocess.run(command, env=environment, stdout=sink, stderr=sink, check=False)
    if process.returncode:
        raise JobError(f"Airflow's database could not be created; see {log}")
    stamp.touch()


def run_dag(demo: Demo, environment: dict[str, str], aws: Aws) -> bool:
    """Run the DAG in Airflow and show its tasks and the progress of its steps; whether it succeeded."""
    command = [sys.executable, "-m", "airflow", "dags", "test", DAG_ID, "--conf", json.dumps(demo.params())]
    watch = view.Watch(console, demo.airflow_home / "airflow.db", DAG_ID, demo.layout, aws)
    with demo.log.open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        watch.until_ended(process)
        return process.wait() == 0
    except BaseException:
        # Ctrl-C reaches Airflow too. The cluster ends with the local AWS.
        process.terminate()
        process.wait()
        raise


def copy_output(demo: Demo, aws: Aws) -> Path:
    """Copy the run from the local AWS to the output folder, without the packed images; return the copy."""
    target = demo.output / demo.run_key
    source = aws.storage(demo.layout.root)
    for obj in source.list():
        if obj.key.startswith("sample/") and shard_number(obj.key) is not None:
            continue
        path = target / obj.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source.get(obj.key))
    return target


def choose_weights(given: str | None, alpha: float, input_size: int) -> str:
    """The weights to run with: those given, else ImageNet's, else, with a warning, random ones."""
    if given is not None:
        path = Path(given).expanduser()
        return str(path.absolute()) if path.is_file() else given
    if _imagenet_reachable(alpha, input_size):
        return "imagenet"
    console.print(
        "[bold red]THE IMAGENET WEIGHTS CANNOT BE DOWNLOADED: GOING ON WITH RANDOM WEIGHTS (random:0). "
        "THE FEATURES WILL MEAN LITTLE.[/] Give WEIGHTS=<file> for real ones."
    )
    return "random:0"


def _imagenet_reachable(alpha: float, input_size: int) -> bool:
    """Whether Keras has the weights in its cache, or can reach the server that it downloads them from."""
    keras_home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if any((keras_home / "models").glob(f"mobilenet_v2_weights_*_{alpha}_{input_size}_no_top.h5")):
        return True
    try:
        request = urllib.request.Request(_WEIGHTS_SERVER, method="HEAD")
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - a constant https address
            return True
    except OSError:
        return False
