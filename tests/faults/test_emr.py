"""Clusters and steps that end, are ended, or do not end; teardowns that EMR refuses."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import promises
import pytest
from clusters import (
    clusters_of,
    home_of,
    limit_steps,
    once_clusters_ended,
    shorten_idle_timeout,
    steps_of,
    with_log_as_message,
)
from trial import Ended, Trial
from victims import Hit, above

from fruit_pipeline.demo import run
from support.fault_kinds import BROKEN, EXPIRED, EndCluster, Meanwhile, Refuse
from support.faulty_aws import Call

RESUME = "Clear the task that created the cluster, and those after it, to resume on a new one"


# Clusters that end


@pytest.mark.parametrize(
    ("end", "code", "reason", "names", "when", "advice"),
    [
        (
            "for want of Spot capacity while it starts",
            "INSTANCE_FLEET_TIMEOUT",
            "The requested Spot capacity of the TASK fleet was not provisioned within 15 minutes",
            ["DescribeCluster"],
            {"after": "AddJobFlowSteps"},
            "EC2 had no capacity, Spot or on demand, for a fleet within its timeout: try again later, or "
            "with a shape of other instance types",
        ),
        (
            "by a fault of EMR before it has a step",
            "INTERNAL_ERROR",
            "An internal error occurred",
            ["ListSteps"],
            {},
            "where it was a fault of AWS, try again",
        ),
        (
            "for loss of its core nodes in mid-step",
            "INSTANCE_FAILURE",
            "All core nodes were lost: EC2 took the Spot instances back",
            ["DescribeStep"],
            {},
            "where EC2 took Spot nodes back, with a shape that has them on demand",
        ),
        (
            "for loss of its primary node in the second step",
            "INSTANCE_FAILURE",
            "The master node was terminated",
            ["ListSteps"],
            {"skip": 1},
            "the cluster lost nodes that it cannot do without: try again",
        ),
        (
            "by a person between its steps",
            "USER_REQUEST",
            "Terminated by user request",
            ["AddJobFlowSteps"],
            {"skip": 1},
            "somebody or the reaper terminated it: nothing needs to be fixed",
        ),
    ],
    ids=["starting", "bootstrapping", "core", "primary", "waiting"],
)
@pytest.mark.fault("the cluster ends {end} ({code})")
def test_ends(
    trial: Trial, end: str, code: str, reason: str, names: list[str], when: dict[str, Any], advice: str
) -> None:
    trial.params["shape"] = "graviton"
    fault = trial.add(EndCluster(code, reason, *names, **when))
    ended = trial.fails(rf"\({code}: {reason}\)")
    assert fault.caught.total() == 1
    cluster_id = clusters_of(trial)[-1]["Id"]
    error, said = "AirflowFailException: ", f"cluster {cluster_id} is TERMINAT"
    line = next(line for line in ended.log.splitlines() if error in line and said in line)
    assert f"({code}: {reason}); " in line
    assert advice in line
    assert f"its logs: s3://{run.BUCKET}/runs/{trial.run_key}/logs/{cluster_id}/" in line
    assert RESUME in line
    assert ended.subject.startswith(f"Run failed: {trial.run_key} (")
    assert advice in ended.message
    assert "MAY STILL BE ALIVE" not in ended.message


@pytest.mark.fault("the nodes' bootstrap script fails (BOOTSTRAP_FAILURE)")
def test_bootstrap_broken(trial: Trial, tmp_path: Path) -> None:
    script = home_of(trial, tmp_path) / "bootstrap" / "install.sh"
    script.write_text("#!/bin/bash\necho no wheels today >&2\nexit 3\n")
    ended = trial.fails("BOOTSTRAP_FAILURE: .*", again=trial.variables.clear)
    assert "a node's Python environment could not be installed: its log, below node/" in ended.message


def in_mid_step(trial: Trial, act: Callable[[Call], object]) -> None:
    trial.add(Meanwhile(act, "PUT", path=f"{trial.prefix}/features/shard-00004"))


@pytest.mark.fault("a person terminates the cluster in mid-step")
def test_terminated_by_hand(trial: Trial) -> None:
    def terminate(_: Call) -> None:
        trial.testbed.proxy.ask("TerminateJobFlows", JobFlowIds=[clusters_of(trial)[0]["Id"]])

    in_mid_step(trial, terminate)
    ended = trial.fails(r"USER_REQUEST: Terminated by user request")
    assert "somebody or the reaper terminated it: nothing needs to be fixed" in ended.message
    assert RESUME in ended.message


# Steps that end, or do not


@pytest.mark.fault("a person cancels the step while it runs")
def test_cancelled_by_hand(trial: Trial) -> None:
    def cancel(_: Call) -> None:
        cluster_id = clusters_of(trial)[0]["Id"]
        step_id = steps_of(trial, cluster_id)[0]["Id"]
        trial.testbed.proxy.ask(
            "CancelSteps",
            ClusterId=cluster_id,
            StepIds=[step_id],
            StepCancellationOption="TERMINATE_PROCESS",
        )

    in_mid_step(trial, cancel)
    ended = trial.fails(r"step s-\w+ \(extract features\) is CANCELLED: somebody cancelled it")
    assert f"trigger again with run_key set to {trial.run_key}" in ended.message


@pytest.mark.fault("the Spark driver hangs for ever")
def test_step_hangs(trial: Trial, tmp_path: Path) -> None:
    limit_steps(trial, tmp_path, 20)
    hang = Hit("PUT", path=f"{trial.prefix}/features/shard-00004", pick=above("java"), number=signal.SIGSTOP)
    trial.add(hang)
    ended = trial.fails(r"has run for 0 min, its limit .*it was cancelled", again=trial.variables.clear)
    assert "trigger again with this run's run_key" in ended.message
    (step,) = steps_of(trial, clusters_of(trial)[-1]["Id"])
    assert step["Status"]["State"] == "CANCELLED"


# Teardowns


@pytest.mark.fault("EMR answers every call of the teardown with an error 500, seven times each")
def test_teardown_breaks_for_a_while(trial: Trial) -> None:
    faults = [
        trial.add(Refuse(BROKEN, "ListClusters", after="AddJobFlowSteps", times=7)),
        trial.add(Refuse(BROKEN, "TerminateJobFlows", times=7)),
        trial.add(Refuse(BROKEN, "DescribeCluster", after="TerminateJobFlows", times=7)),
    ]
    ended = trial.goes_through()
    assert [fault.caught.total() for fault in faults] == [7, 7, 7]
    assert "MAY STILL BE ALIVE" in ended.log
    assert "MAY STILL BE ALIVE" not in ended.message, "it has ended, in the end"
    assert len(clusters_of(trial)) == 1


@pytest.mark.fault("TerminateJobFlows answers with an error 500 for ever; a person ends the cluster, as told")
def test_teardown_breaks_for_ever(trial: Trial) -> None:
    def ended_by_hand() -> Ended:
        ended = trial.run()
        (cluster,) = clusters_of(trial)
        assert cluster["Status"]["State"] in promises.ALIVE, "the alarm is false"
        trial.testbed.proxy.ask("TerminateJobFlows", JobFlowIds=[cluster["Id"]])
        return once_clusters_ended(trial, ended)

    trial.add(Refuse(BROKEN, "TerminateJobFlows"))
    alarm = r"CLUSTER j-\w+ MAY STILL BE ALIVE, AND COST MONEY"
    ended = trial.fails(alarm, ended_by_hand, results_complete=True)
    assert "Then clear this task" in ended.message
    assert ended.log.count("MAY STILL BE ALIVE") >= 6, "the teardown was not tried five times more"


@pytest.mark.fault("ListClusters answers with an error 500 for ever once there is a cluster")
def test_teardown_cannot_look(trial: Trial) -> None:
    """It is terminated by its id."""
    trial.add(Refuse(BROKEN, "ListClusters", after="AddJobFlowSteps"))
    trial.fails(
        r"AWS was asked to terminate cluster j-\w+, but its end was not confirmed",
        lambda: once_clusters_ended(trial, trial.run()),
        results_complete=True,
    )


@pytest.mark.fault("the credentials expire after the first step is added, and are renewed at the teardown")
def test_expired_until_teardown(trial: Trial) -> None:
    trial.add(Refuse(EXPIRED, after="AddJobFlowSteps", lifts_at=("ListClusters", 3)))
    text = "the credentials have expired; renew them"
    ended = trial.fails(rf"cluster j-\w+: {text}")
    cluster_id = clusters_of(trial)[-1]["Id"]
    retried = ended.log.count(f"AirflowException: cluster {cluster_id}: {text}")
    assert retried >= 2, "nobody had the time to renew them"
    assert ended.log.count(f"AirflowException: CLUSTER {cluster_id} MAY STILL BE ALIVE") >= 2
    assert ended.subject == f"Run failed: {trial.run_key} (cluster_ready)"
    assert "MAY STILL BE ALIVE" not in ended.message, "it has ended, in the end"


@pytest.mark.fault("the credentials expire after the first step is added, for good; the log tells it")
def test_expired_for_ever(trial: Trial, tmp_path: Path) -> None:
    shorten_idle_timeout(trial, tmp_path)
    for service in ("elasticmapreduce", "sns"):  # the nodes have credentials of their own for S3
        trial.add(Refuse(EXPIRED, service=service, after="AddJobFlowSteps"))
    ended = trial.fails(
        "the credentials have expired; renew them",
        lambda: with_log_as_message(once_clusters_ended(trial, trial.run())),
    )
    cluster_id = clusters_of(trial)[-1]["Id"]
    alarm = (
        f"AirflowException: CLUSTER {cluster_id} MAY STILL BE ALIVE, AND COST MONEY, until it is terminated "
        f"in the EMR console or ends by its idle timeout: run {trial.run_key}: the credentials have expired; "
        "renew them. Then clear this task"
    )
    assert ended.log.count(alarm) >= 6, "the teardown was not tried five times more"
    assert "the message was not sent: " in ended.log, "SNS takes the same credentials"
    status = trial.testbed.proxy.ask("DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"]
    assert status["StateChangeReason"]["Code"] == "ALL_STEPS_COMPLETED"
    assert "auto-termination" in status["StateChangeReason"]["Message"]
