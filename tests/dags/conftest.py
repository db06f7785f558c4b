"""Deployments to the local AWS, a mailbox, operators behind a proxy, and a small finished run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline import settings
from fruit_pipeline.settings import Settings
from support.airflow import CONNECTION, CONNECTION_VARIABLE, connection_to
from support.faulty_aws import FaultyAws
from support.instant_aws import InstantAws
from support.local_aws import BUCKET, REGION, LocalAws
from support.mailbox import Mailbox
from support.runs import finished_run


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
    monkeypatch.setenv(CONNECTION_VARIABLE, connection_to(local_aws.endpoint))
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
def clusters(local_aws: InstantAws) -> Iterator[InstantAws]:
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
    monkeypatch.setenv(CONNECTION_VARIABLE, connection_to(faulty.endpoint))
    return {"task_id": "task", "aws_conn_id": CONNECTION, "region_name": REGION}


@pytest.fixture
def create(deployment: Settings, clusters: InstantAws, arguments: dict[str, Any]) -> Callable[[str], Any]:
    """CreateClusterOnce with the real request of a run."""
    from fruit_pipeline.cluster import job_flow, shapes
    from fruit_pipeline.dag.operators import CreateClusterOnce

    def build(run_key: str) -> CreateClusterOnce:
        shape = shapes.load_shape(deployment.home, "small")
        script = clusters.put(f"runs/{run_key}/code/install.sh")
        logs = f"s3://{BUCKET}/runs/{run_key}/logs"
        request = job_flow.build_request(deployment, shape, run_key, logs, script, "s3://b-1/wheels")
        return CreateClusterOnce(job_flow_overrides=request, waiter_delay=0.05, **arguments)

    return build
