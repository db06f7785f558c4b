"""Processes that are killed, stopped or starved in the middle of a run."""

from __future__ import annotations

import pytest
from trial import Trial
from victims import Hit, above


@pytest.mark.quick
@pytest.mark.fault("a Python worker is killed in mid-batch")
def test_worker_killed(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00002"))
    trial.goes_through()


@pytest.mark.fault("the Spark driver's JVM is killed")
def test_driver_killed(trial: Trial) -> None:
    trial.add(Hit("PUT", path=f"{trial.prefix}/features/shard-00005", pick=above("java")))
    trial.fails(r"step s-\w+ .*")
