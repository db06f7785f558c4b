"""A local AWS and an Airflow for whole runs of the DAG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Stage

from fruit_pipeline.demo import run
from fruit_pipeline.demo.local_account import set_up_account

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    work = tmp_path_factory.mktemp("stage")
    made = run.Demo(
        work=work,
        output=work / "output",
        source="",
        weights="random:0",
        alpha=0.35,
        components=50,
        variance=None,
        run_key="e2e",
        region="eu-west-3",
    )
    with run.local_aws(made) as aws:
        set_up_account(aws, run.BUCKET)
        environment = run.airflow_environment(made, aws)
        run.migrate(made, environment)
        yield Stage(made, aws, environment)


@pytest.fixture
def nothing_left_alive(stage: Stage) -> Iterator[None]:
    """Whatever the test did, no cluster lives on after it."""
    yield
    assert stage.clusters("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING") == []
