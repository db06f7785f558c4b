"""Servers for the tests: one that most of them share, and more on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from support.local_aws import AwsProcess, LocalAws


@pytest.fixture(scope="session")
def server() -> Iterator[AwsProcess]:
    process = AwsProcess()
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="session")
def shared(server: AwsProcess) -> LocalAws:
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    return aws


@pytest.fixture
def aws(shared: LocalAws) -> Iterator[LocalAws]:
    """The shared server; clusters that a test leaves alive are ended."""
    yield shared
    shared.terminate_all()


@pytest.fixture
def start() -> Iterator[Callable[..., AwsProcess]]:
    """Starts servers of a test's own; what still runs is stopped."""
    started: list[AwsProcess] = []

    def begin(*options: str) -> AwsProcess:
        started.append(AwsProcess(*options))
        return started[-1]

    yield begin
    for process in started:
        if process.alive:
            process.stop()
