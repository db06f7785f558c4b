"""A stage for whole runs of the DAG."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.stages import Stage, new_stage

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and not item.get_closest_marker("smoke"):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with new_stage(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def nothing_left_alive(stage: Stage) -> Iterator[None]:
    """Whatever the test did, no cluster lives on after it."""
    yield
    assert stage.clusters("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING") == []
