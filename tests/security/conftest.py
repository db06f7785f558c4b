"""A local AWS of these tests' own, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from emr_harness import Aws, ServerProcess


@pytest.fixture(scope="session")
def product(repo: Path) -> list[Path]:
    """The Python files that are run or shipped: all but the tests."""
    folders = ("dags", "spark_jobs", "local_emr", "docker", "infra", "benchmarks", "examples", "notebooks")
    return sorted(path for folder in folders for path in (repo / folder).rglob("*.py"))


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    """A local AWS with a bucket, as a user starts it."""
    server = ServerProcess()
    aws = Aws(server.endpoint)
    aws.make_bucket()
    yield aws
    assert server.stop() == 0


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium here; apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        opened = playwright.chromium.launch(executable_path=chromium, args=arguments, timeout=300_000)
        yield opened
        opened.close()
