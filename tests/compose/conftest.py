"""Stacks of containers; all tests here are skipped, with the reason, where no Docker engine runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import ComposeStack, no_engine, running

HERE = Path(__file__).parent
reason = functools.cache(no_engine)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.compose)
            # Building the image, on a machine that has nothing of it yet, counts as well.
            item.add_marker(pytest.mark.timeout(3000))
    # The session's stack stays to the end: it starts when no other one needs the memory any more.
    items.sort(key=lambda item: HERE in item.path.parents and "stack" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session", autouse=True)
def _engine() -> None:
    if reason():
        pytest.skip(reason())


@pytest.fixture(scope="session")
def stack(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    """The default profile: Airflow and the local AWS. The session has one, and tests share it."""
    name = f"fruit-features-test-{os.getpid()}"
    # Screenshots may show images and weights of one's own.
    shown = (
        ("FRUITS_IMAGES", "FRUITS_WEIGHTS_DIR", "FRUITS_WEIGHTS")
        if "FRUITS_SCREENSHOTS" in os.environ
        else ()
    )
    settings = {variable: os.environ[variable] for variable in shown if os.environ.get(variable)}
    yield from running(ComposeStack(repo, tmp_path_factory.mktemp("compose"), name, settings))
