"""Explanations name the state, the reason and the log, also while the log is not shipped yet."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest

from fruit_pipeline.aws.clusters import Cluster
from fruit_pipeline.aws.failures import explain_cluster, explain_step
from fruit_pipeline.aws.session import Aws
from support.instant_aws import InstantAws
from support.local_aws import BUCKET
from support.waiting import eventually


@pytest.fixture
def failed(clusters: InstantAws) -> tuple[str, str]:
    """A cluster and its failed step."""
    chatter = [f"26/11/20 10:00:00 INFO Executor: {n}" for n in range(1, 31)]
    log = "\n".join([*chatter, *(f"line {n}" for n in range(1, 31)), ""])
    cluster = clusters.run(name="failures")
    step = clusters.script("many lines", stderr=log, exit_code=1)
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster, step_id) == "FAILED")
    return cluster, step_id


def test_a_step_is_explained_by_the_last_lines_that_are_no_chatter(aws: Aws, failed: tuple[str, str]) -> None:
    first, *lines = explain_step(aws, *failed).splitlines()
    assert first.startswith(f"step {failed[1]} (many lines) is FAILED")
    assert lines == [f"line {n}" for n in range(11, 31)]


def test_a_jobs_own_error_is_preferred_to_emrs_message(aws: Aws, clusters: InstantAws) -> None:
    said = "on the way\nerror: the shard is damaged; run the sample again\n"
    log = "26/11/20 10:00:00 WARN Utils: a name\n26/11/20 10:00:00 INFO ShutdownHookManager: gone\n"
    cluster = clusters.run(name="own-words")
    step = clusters.script("gives up", stdout=said, stderr=log, exit_code=2)
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster, step_id) == "FAILED")
    first, *lines = explain_step(aws, cluster, step_id).splitlines()
    assert first.startswith(
        f"step {step_id} (gives up) is FAILED: the shard is damaged; run the sample again; log: s3://"
    )
    assert first.endswith("/stdout.gz"), "where spark-submit puts what a Python driver says"
    assert lines == ["on the way", "error: the shard is damaged; run the sample again"]


def test_a_step_whose_process_was_killed_is_reported_as_killed(aws: Aws, clusters: InstantAws) -> None:
    """What its log ends with is where it was, not why it ended."""
    cluster = clusters.run(name="killed")
    step = clusters.script("is killed", stderr="Registering block manager\n", exit_code=137)
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster, step_id) == "FAILED")
    first = explain_step(aws, cluster, step_id).splitlines()[0]
    why = f"step {step_id} (is killed) is FAILED: its process was killed (SIGKILL): by hand, or because the "
    assert first.startswith(f"{why}primary node ran out of memory.")


def test_a_log_that_is_not_shipped_yet_is_named_all_the_same(
    aws: Aws, failed: tuple[str, str], clusters: InstantAws
) -> None:
    cluster, step_id = failed
    for key in clusters.keys("logs"):
        if step_id in key:
            clusters.s3.delete_object(Bucket=BUCKET, Key=f"logs/{key}")
    text = explain_step(aws, cluster, step_id)
    assert f"; log: s3://{BUCKET}/logs/{cluster}/steps/{step_id}/" in text
    assert text.endswith("(not shipped yet)")


@pytest.mark.parametrize("body", [b"not gzip at all", gzip.compress(b"\xff\xfe bytes\nthe end", mtime=0)])
def test_a_log_that_cannot_be_read_does_not_hide_the_failure(
    aws: Aws, failed: tuple[str, str], clusters: InstantAws, body: bytes
) -> None:
    cluster, step_id = failed
    for key in clusters.keys("logs"):
        if step_id in key:
            clusters.put(f"logs/{key}", body)
    text = explain_step(aws, cluster, step_id)
    assert text.startswith(f"step {step_id} (many lines) is FAILED")
    assert text.endswith(("(not shipped yet)", "\nthe end"))


def cluster(status: dict[str, Any], **more: Any) -> Cluster:
    """Cluster j-1 as EMR describes it with such a status."""
    timeline = {"CreationDateTime": datetime.now(UTC)}
    return Cluster.from_answer({"Cluster": {"Id": "j-1", "Status": {"Timeline": timeline, **status}, **more}})


def test_a_cluster_is_explained_in_one_line() -> None:
    reason = {"Code": "USER_REQUEST", "Message": "Terminated by user request"}
    ended = cluster({"State": "TERMINATED", "StateChangeReason": reason}, LogUri="s3n://b/logs/")
    assert explain_cluster(ended) == (
        "cluster j-1 is TERMINATED (USER_REQUEST: Terminated by user request); somebody or the reaper "
        "terminated it: nothing needs to be fixed; its logs: s3n://b/logs/j-1/. Clear the task that created "
        "the cluster, and those after it, to resume on a new one"
    )


def reason_codes() -> list[str]:
    model = botocore.session.get_session().get_service_model("emr")
    return model.shape_for("ClusterStateChangeReasonCode").enum


ADVICE = {
    "INTERNAL_ERROR": "if it had no capacity, try again later, or with a shape of other instance types",
    "VALIDATION_ERROR": "fix what the reason names, such as a quota, a subnet or a role",
    "INSTANCE_FAILURE": "if EC2 took Spot nodes back, with a shape that has them on demand",
    "INSTANCE_FLEET_TIMEOUT": "EC2 had no capacity, Spot or on demand, for a fleet within its timeout",
    "BOOTSTRAP_FAILURE": "its log, below node/ in the cluster's logs, says why",
    "USER_REQUEST": "somebody or the reaper terminated it",
    "STEP_FAILURE": "its log, below steps/ in the cluster's logs, says why",
    "ALL_STEPS_COMPLETED": "it had no step for as long as its idle timeout",
}


@pytest.mark.parametrize("code", reason_codes())
def test_every_reason_that_emr_knows_says_what_to_do(code: str) -> None:
    status = {"State": "TERMINATED_WITH_ERRORS", "StateChangeReason": {"Code": code, "Message": "so it is"}}
    text = explain_cluster(cluster(status))
    assert f"({code}: so it is); " in text
    assert ADVICE[code] in text


def test_emrs_error_details_are_in_the_explanation() -> None:
    detail = {
        "ErrorCode": "INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY",
        "ErrorData": [{"instance-types": "m5.xlarge"}],
        "ErrorMessage": "there is no Spot capacity for the primary node",
    }
    reason = {"Code": "INTERNAL_ERROR", "Message": "no capacity"}
    status = {"State": "TERMINATED_WITH_ERRORS", "StateChangeReason": reason, "ErrorDetails": [detail]}
    assert (
        "(INTERNAL_ERROR: no capacity); INTERNAL_ERROR_SPOT_NO_CAPACITY_PRIMARY: there is no Spot capacity "
        "for the primary node; "
    ) in explain_cluster(cluster(status))


def test_a_cluster_without_reason_or_logs_is_explained_too() -> None:
    text = explain_cluster(cluster({"State": "TERMINATED"}))
    assert text.startswith("cluster j-1 is TERMINATED (no code: no message). Clear the task")
