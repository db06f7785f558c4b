"""A trial's clusters and steps, and what they are made from, for faults of EMR."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import promises
from testbed import SHORT_WAITS
from trial import Ended, Trial

from support.waiting import eventually


def clusters_of(trial: Trial) -> list[dict[str, Any]]:
    """All clusters of the trial's run, newest first; no fault is met."""
    found = trial.testbed.proxy.ask("ListClusters")["Clusters"]
    return [cluster for cluster in found if cluster["Name"].split()[-1] == trial.run_key]


def steps_of(trial: Trial, cluster_id: str) -> list[dict[str, Any]]:
    return trial.testbed.proxy.ask("ListSteps", ClusterId=cluster_id)["Steps"]


def once_clusters_ended(trial: Trial, ended: Ended, seconds: float = 600) -> Ended:
    """A run, once the clusters that it left have ended as well."""
    eventually(
        lambda: all(cluster["Status"]["State"] not in promises.ALIVE for cluster in clusters_of(trial)),
        seconds,
    )
    return ended


def with_log_as_message(ended: Ended) -> Ended:
    """A run that cannot send its message, with its log in place of the message."""
    return Ended(ended.ok, ended.log, ended.log, ended.subject)


def home_of(trial: Trial, folder: Path) -> Path:
    """A copy of what is deployed, for the trial to break."""
    trial.variables["FRUITS_HOME"] = str(trial.stage.copy_home(folder))
    return folder


def shorten_idle_timeout(trial: Trial, folder: Path) -> None:
    """Clusters of the trial end after a minute without steps, EMR's least."""
    shape = home_of(trial, folder) / "emr_configs" / "small.json"
    text, long = shape.read_text(), '"idle_timeout_seconds": 900'
    assert long in text
    shape.write_text(text.replace(long, '"idle_timeout_seconds": 60'))


def limit_steps(trial: Trial, folder: Path, seconds: float) -> None:
    """Steps may run for so long, whatever their estimate."""
    patch = "from fruit_pipeline.cost import estimate\n"
    patch += f"estimate.LIMIT_FACTOR, estimate.LIMIT_FLOOR_SECONDS = 0.0, {seconds}\n"
    (folder / "sitecustomize.py").write_text(SHORT_WAITS + patch)
    path = trial.stage.environment["PYTHONPATH"]
    trial.variables["PYTHONPATH"] = os.pathsep.join([str(folder), path])
