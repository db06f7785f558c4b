"""A local AWS, and a run of the DAG with planted credentials and hostile names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from planting import HOSTILE_LABELS, SMALL, CommandLines, Planted, connection_of

from fruit_pipeline.demo import run as demo_run
from support.local_aws import AwsProcess, LocalAws
from support.stages import DagRun, Stage, demo_in, stage_on


@pytest.fixture(scope="session")
def product(repo: Path) -> list[Path]:
    """The Python files that are run or shipped: all but the tests."""
    folders = ("dags", "spark_jobs", "local_emr", "docker", "infra", "benchmarks", "examples", "notebooks")
    return sorted(path for folder in folders for path in (repo / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def aws() -> Iterator[LocalAws]:
    """A local AWS with a bucket, as a user starts it."""
    server = AwsProcess()
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    yield aws
    assert server.stop() == 0


@pytest.fixture(scope="session")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="session")
def command_lines(planted: Planted) -> Iterator[CommandLines]:
    thread = CommandLines(planted)
    thread.start()
    yield thread
    thread.stopping.set()
    thread.join()


@pytest.fixture(scope="session")
def stage(
    tmp_path_factory: pytest.TempPathFactory, planted: Planted, command_lines: CommandLines
) -> Iterator[Stage]:
    """A local AWS and an Airflow, both started with planted credentials in their environment."""
    work = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", planted["environment_key"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", planted["environment_secret"])
        patch.setenv("AWS_SESSION_TOKEN", planted["environment_token"])
        with demo_run.local_aws(demo_in(work)) as aws:
            variables = {
                "AIRFLOW_CONN_AWS_LOCAL": connection_of(planted, str(aws.endpoint_url)),
                "AIRFLOW__API_AUTH__JWT_SECRET": planted["jwt"],
                "AIRFLOW__API__SECRET_KEY": planted["api_secret"],
                "AIRFLOW__CORE__FERNET_KEY": planted["fernet"],
                "FRUITS_SNS_TOPIC_ARN": aws.client("sns").create_topic(Name="runs")["TopicArn"],
            }
            made = stage_on(aws, work, variables)
            assert made.environment["AWS_SECRET_ACCESS_KEY"] == planted["environment_secret"]
            yield made


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory, drawn_folder: Path) -> Path:
    """A folder of images under hostile names: its own, its labels', its images'."""
    folder = tmp_path_factory.mktemp("images") / "{{ 7*7 }} {{ params.bucket }} '\"<b>"
    drawn = sorted(path for path in drawn_folder.iterdir() if path.is_dir())
    for label, images in zip(HOSTILE_LABELS, drawn, strict=False):
        shutil.copytree(images, folder / label)
        first = min((folder / label).iterdir())
        first.rename(first.with_name(f"{{{{ 7*7 }}}} {label}.jpg"))
    (folder / HOSTILE_LABELS[0] / "<img src=x onerror=alert(1)>.jpg").touch()
    return folder


@pytest.fixture(scope="session")
def finished(stage: Stage, source: Path) -> DagRun:
    """A run of these names, with the planted credentials."""
    run = stage.run("planted", source=str(source), labels=list(HOSTILE_LABELS), **SMALL)
    assert run.ok, run.log[-5000:]
    return run
