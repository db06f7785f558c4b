"""Airflow's home for the tests, one local AWS for all of them, and a small finished run."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from faulty_aws import FaultyAws
from pipeline_harness import BUCKET, CONNECTION, REGION, LocalAws, Mailbox, finished_run

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.settings import Settings

# Airflow reads these when it is imported, which only the test modules do.
_HOME = Path(tempfile.mkdtemp(prefix="airflow-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
_REPO = Path(__file__).resolve().parents[2]
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(_REPO / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME}/airflow.db",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own deployment and credentials must not reach a test."""
    kept = ("FRUITS_CACHE_DIR", "FRUITS_TEST_DATA")
    for name in list(os.environ):
        if (name.startswith(("FRUITS_", "AWS_")) and name not in kept) or name.startswith("AIRFLOW_CONN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def local_aws() -> Iterator[LocalAws]:
    """The local AWS as a process, with a bucket."""
    aws = LocalAws()
    aws.make_bucket()
    yield aws
    assert aws.stop() == 0


@pytest.fixture
def aws(local_aws: LocalAws) -> Aws:
    return Aws(boto3.Session("test", "test", region_name=REGION), REGION, local_aws.endpoint)


@pytest.fixture
def s3_environment(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local AWS as a command meets it: by environment variables."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", local_aws.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)


@pytest.fixture
def connection(local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> str:
    """Id of an Airflow connection to the local AWS."""
    extra = {"region_name": REGION, "endpoint_url": local_aws.endpoint}
    text = json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", text)
    return CONNECTION


@pytest.fixture
def deployed(connection: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The settings of a deployment to the local AWS; the test may change them."""
    monkeypatch.setenv("FRUITS_BUCKET", BUCKET)
    monkeypatch.setenv("FRUITS_REGION", REGION)
    monkeypatch.setenv("FRUITS_AWS_CONN_ID", connection)
    monkeypatch.setenv("FRUITS_POLL_SECONDS", "1")
    return monkeypatch


@pytest.fixture(scope="session")
def _mailbox(local_aws: LocalAws) -> Mailbox:
    return Mailbox(local_aws, "fruits")


@pytest.fixture
def mailbox(_mailbox: Mailbox, deployed: pytest.MonkeyPatch) -> Mailbox:
    """An empty mailbox that hears the deployment's topic."""
    deployed.setenv("FRUITS_SNS_TOPIC_ARN", _mailbox.topic)
    _mailbox.read()
    return _mailbox


@pytest.fixture
def clusters(local_aws: LocalAws) -> Iterator[LocalAws]:
    """The local AWS; clusters that a test leaves alive are ended."""
    yield local_aws
    local_aws.terminate_all()


@pytest.fixture
def deployment(repo: Path) -> Settings:
    """Settings as a deployment without any variable has them."""
    return settings.load({"FRUITS_HOME": str(repo)})


@pytest.fixture(scope="session")
def standing_run(tmp_path_factory: pytest.TempPathFactory, random_backbone: Path, drawn_folder: Path) -> Path:
    """A finished run of the drawn images and two rejects, made without Spark. Not to be changed."""
    return finished_run(tmp_path_factory.mktemp("standing"), drawn_folder, random_backbone)


@pytest.fixture
def run(standing_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(standing_run, tmp_path / "run"))


# The operators behind a proxy that makes the faults; they are imported where Airflow's home is known.


@pytest.fixture
def faulty(clusters: LocalAws) -> Iterator[FaultyAws]:
    with FaultyAws(clusters.endpoint, REGION) as proxy:
        yield proxy


@pytest.fixture
def arguments(faulty: FaultyAws, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of every operator: its connection leads through the proxy."""
    extra = {"region_name": REGION, "endpoint_url": faulty.endpoint}
    text = json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", text)
    return {"task_id": "task", "aws_conn_id": CONNECTION, "region_name": REGION}


@pytest.fixture
def create(deployment: Settings, clusters: LocalAws, arguments: dict[str, Any]) -> Callable[[str], Any]:
    """CreateClusterOnce with the real request of a run."""
    from fruit_pipeline.cluster import job_flow, shapes
    from fruit_pipeline.dag.operators import CreateClusterOnce

    def build(run_key: str) -> CreateClusterOnce:
        shape = shapes.load_shape(deployment.home, "small")
        script = clusters.put(f"runs/{run_key}/code/install.sh", "true")
        logs = f"s3://{BUCKET}/runs/{run_key}/logs"
        request = job_flow.build_request(deployment, shape, run_key, logs, script, "s3://b-1/wheels")
        return CreateClusterOnce(job_flow_overrides=request, waiter_delay=1, **arguments)

    return build
