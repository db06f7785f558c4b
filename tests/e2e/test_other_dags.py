"""Whole runs of the notebook cluster's, the cost report's and the reaper's DAG."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.aws.clusters import RUN_TAG, UNTIL_TAG, name_of
from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.run.summary import to_json
from support.stages import Stage
from support.summaries import run_cost, run_summary
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("nothing_left_alive")


def start(stage: Stage, dag_id: str, log: Path, **conf: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "airflow", "dags", "test", dag_id, "--conf", json.dumps(conf)]
    with log.open("wb") as sink:
        return subprocess.Popen(command, env=stage.environment, stdout=sink, stderr=subprocess.STDOUT)


def run(stage: Stage, dag_id: str, log: Path, **conf: Any) -> tuple[bool, str]:
    process = start(stage, dag_id, log, **conf)
    process.wait(timeout=600)
    return process.returncode == 0, log.read_text(errors="replace")


def tags_of(stage: Stage, cluster_id: str) -> dict[str, str]:
    described = stage.aws.client("emr").describe_cluster(ClusterId=cluster_id)["Cluster"]
    return {tag["Key"]: tag["Value"] for tag in described["Tags"]}


def test_a_notebook_cluster_is_made_explained_and_terminated_when_its_time_is_over(
    stage: Stage, tmp_path: Path
):
    started = datetime.now(UTC)
    ok, log = run(stage, "notebook_cluster", tmp_path / "log", owner="ada", until="1m")
    assert ok, log[-5000:]
    (listed,) = [c for c in stage.clusters("TERMINATED") if c["Name"] == name_of("_notebook-ada")]
    end = listed["Status"]["Timeline"]["EndDateTime"]
    assert end - started >= timedelta(minutes=1)
    assert listed["Status"]["StateChangeReason"]["Code"] == "USER_REQUEST"
    assert datetime.fromisoformat(tags_of(stage, listed["Id"])[UNTIL_TAG]) <= end
    assert "aws ssm start-session --region eu-west-3 --target i-" in log
    assert "AWS-StartPortForwardingSession" in log
    assert "-N -L 9443:localhost:9443 hadoop@ec2-" in log
    assert log.index("aws ssm start-session") < log.index("ssh -i")


def test_a_notebook_cluster_that_its_owner_ends_is_a_good_run(stage: Stage, tmp_path: Path):
    log = tmp_path / "log"
    process = start(stage, "notebook_cluster", log, owner="bob", until="2h")

    def connected() -> bool:
        text = log.read_text(errors="replace")
        assert process.poll() is None, text[-5000:]
        return "-N -L 9443:localhost:9443" in text

    eventually(connected, describe=lambda: log.read_text(errors="replace")[-5000:])
    (listed,) = stage.clusters("WAITING", "RUNNING")
    # While it lives the owner gets no second one, and the first is not touched.
    ok, refused = run(stage, "notebook_cluster", tmp_path / "second", owner="bob", until="2h")
    assert not ok
    assert f"bob has a notebook cluster already, {listed['Id']}" in refused
    assert [c["Id"] for c in stage.clusters("WAITING", "RUNNING")] == [listed["Id"]]
    stage.aws.client("emr").terminate_job_flows(JobFlowIds=[listed["Id"]])
    process.wait(timeout=600)
    assert process.returncode == 0, log.read_text(errors="replace")[-5000:]


def test_a_notebook_cluster_that_does_not_start_fails_its_run(stage: Stage, tmp_path: Path):
    """The teardown succeeds then, which must not hide it."""
    home = stage.copy_home(tmp_path)
    (home / "bootstrap" / "install.sh").write_text("#!/bin/bash\nexit 3\n")
    broken = stage.with_environment(FRUITS_HOME=str(home))
    ok, log = run(broken, "notebook_cluster", tmp_path / "log", owner="eve", until="2h")
    assert not ok
    assert "BOOTSTRAP_FAILURE" in log


def test_the_reaper_ends_what_nobody_waits_for(stage: Stage, tmp_path: Path):
    emr = stage.aws.client("emr")
    groups = [{"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}]
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat(timespec="seconds")
    cluster_id = emr.run_job_flow(
        Name=name_of("left"),
        ReleaseLabel="emr-7.14.0",
        Instances={"InstanceGroups": groups, "KeepJobFlowAliveWhenNoSteps": True},
        Tags=[{"Key": RUN_TAG, "Value": "left"}, {"Key": UNTIL_TAG, "Value": past}],
        ServiceRole="EMR_DefaultRole_V2",
        JobFlowRole="EMR_EC2_DefaultRole",
    )["JobFlowId"]
    ok, log = run(stage, "reap_clusters", tmp_path / "first")
    assert ok, log[-5000:]
    assert cluster_id in log
    assert cluster_id in {c["Id"] for c in stage.clusters("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")}
    allowed = stage.with_environment(FRUITS_REAP="true")
    ok, log = run(allowed, "reap_clusters", tmp_path / "second")
    assert ok, log[-5000:]
    eventually(lambda: cluster_id in {c["Id"] for c in stage.clusters("TERMINATED")})


def test_the_cost_report_is_written_whatever_cost_explorer_knows(stage: Stage, tmp_path: Path):
    storage = stage.aws.storage(f"s3://{demo_run.BUCKET}")
    storage.put("runs/counted/summary.json", to_json(run_summary(cost=run_cost(1.0, 1.25))))
    ok, log = run(stage, "cost_report", tmp_path / "log", days=7)
    assert ok, log[-5000:]
    (page,) = [item.key for item in storage.list("reports")]
    html = storage.get(page).to_pybytes().decode()
    assert "counted" in html
    assert "1.25\u00a0USD" in html
    storage.delete([page, "runs/counted/summary.json"])
