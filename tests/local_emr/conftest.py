"""Servers for the tests: one that most of them share, and more on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from botocore.exceptions import ClientError
from emr_harness import Aws, ServerProcess


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    process = ServerProcess()
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="session")
def shared(server: ServerProcess) -> Aws:
    aws = Aws(server.endpoint)
    aws.make_bucket()
    return aws


@pytest.fixture
def aws(shared: Aws) -> Iterator[Aws]:
    """The shared server; clusters that a test leaves alive are ended."""
    yield shared
    alive = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
    for page in shared.emr.get_paginator("list_clusters").paginate(ClusterStates=alive):
        for cluster in page["Clusters"]:
            ids = [cluster["Id"]]
            with suppress(ClientError):  # it may end by itself meanwhile
                shared.emr.set_termination_protection(JobFlowIds=ids, TerminationProtected=False)
                shared.emr.terminate_job_flows(JobFlowIds=ids)


@pytest.fixture
def start() -> Iterator[Callable[..., ServerProcess]]:
    """Starts servers of a test's own; what still runs is stopped."""
    started: list[ServerProcess] = []

    def begin(*options: str) -> ServerProcess:
        started.append(ServerProcess(*options))
        return started[-1]

    yield begin
    for process in started:
        if process.process.poll() is None:
            process.stop()
