"""A whole run on a cluster of instance fleets, Spot and arm64 by name, on this machine's own wheels."""

from __future__ import annotations

from pathlib import Path

import pytest

from fruit_pipeline.cluster import job_flow
from fruit_pipeline.sample.drawn_images import draw_folder
from support.stages import Stage

pytestmark = pytest.mark.usefixtures("nothing_left_alive")


def test_a_run_takes_a_cluster_of_fleets(stage: Stage, tmp_path: Path) -> None:
    draw_folder(tmp_path / "fruits", per_label=4)
    run = stage.run(
        "on-fleets",
        source=str(tmp_path / "fruits"),
        shape="graviton",
        components=10,
        alpha=0.35,
        weights="random:0",
    )
    assert run.ok, run.log[-5000:]
    summary = run.summary()
    assert (summary["features"], summary["components"]) == (48, 10)
    emr = stage.aws.client("emr")
    described = emr.describe_cluster(ClusterId=summary["cluster_id"])["Cluster"]
    assert described["InstanceCollectionType"] == "INSTANCE_FLEET"
    assert described["Status"]["State"] == "TERMINATED"
    fleets = emr.list_instance_fleets(ClusterId=summary["cluster_id"])["InstanceFleets"]
    assert [fleet["InstanceFleetType"] for fleet in fleets] == ["MASTER", "CORE", "TASK"]
    # Spark refuses a folder of event logs that is not there.
    assert run.storage.exists(f"logs/{job_flow.EVENT_LOGS_MARKER}")
