"""Bootstrap actions and steps as processes, through boto3; steps are small bash scripts."""

from __future__ import annotations

import time
from typing import Any

import pytest

from support.local_aws import LocalAws, step
from support.processes import processes_with
from support.waiting import eventually

SLEEP = "sleep 600"


def bootstrap(aws: LocalAws, body: str, *args: str) -> dict[str, Any]:
    path = aws.put(f"bootstrap/{abs(hash(body))}.sh", body)
    return {"Name": "prepare", "ScriptBootstrapAction": {"Path": path, "Args": list(args)}}


def test_a_step_runs_with_its_arguments_and_its_output_is_in_its_log(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("hello", "echo hello $1", "you"), keep=False)
    status = aws.wait_cluster(cluster, "TERMINATED")
    assert status["StateChangeReason"] == {"Code": "ALL_STEPS_COMPLETED", "Message": "Steps completed"}
    times = status["Timeline"]
    assert times["CreationDateTime"] <= times["ReadyDateTime"] <= times["EndDateTime"]
    done = aws.steps(cluster)["hello"]
    assert done["Status"]["State"] == "COMPLETED"
    assert set(done["Status"]["Timeline"]) == {"CreationDateTime", "StartDateTime", "EndDateTime"}
    assert aws.step_log(cluster, done["Id"], "stdout") == "hello you\n"


def test_a_failed_step_is_explained_by_its_log(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("bad", "echo 'no disk' >&2; exit 3"), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    bad = aws.steps(cluster)["bad"]
    failure = bad["Status"]["FailureDetails"]
    assert failure["Message"] == "no disk (exit code 3)"
    assert failure["LogFile"] == f"s3://{aws.bucket}/logs/{cluster}/steps/{bad['Id']}/stderr.gz"
    assert aws.step_log(cluster, bad["Id"], "stderr") == "no disk\n"


def test_the_end_of_a_cluster_ends_its_processes(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("running", SLEEP))
    eventually(lambda: processes_with(f"EMR_CLUSTER_ID={cluster}") != [])
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "TERMINATED")
    assert aws.steps(cluster)["running"]["Status"]["State"] == "CANCELLED"
    assert processes_with(f"EMR_CLUSTER_ID={cluster}") == []


def test_a_step_that_ignores_the_interrupt_stays_cancel_pending_until_it_is_killed(aws: LocalAws) -> None:
    body = "trap '' TERM; echo ready; while :; do sleep 0.2; done"
    cluster = aws.run(aws.script("stubborn", body))
    step_id = aws.steps(cluster)["stubborn"]["Id"]
    eventually(
        lambda: len(processes_with(f"EMR_STEP_ID={step_id}")) > 1
    )  # bash and its sleep: the trap is set
    aws.emr.cancel_steps(ClusterId=cluster, StepIds=[step_id], StepCancellationOption="SEND_INTERRUPT")
    time.sleep(0.5)
    assert aws.step_state(cluster, step_id) == "CANCEL_PENDING"
    aws.emr.cancel_steps(ClusterId=cluster, StepIds=[step_id], StepCancellationOption="TERMINATE_PROCESS")
    assert aws.wait_step(cluster, step_id)["State"] == "CANCELLED"


def test_the_log_of_a_running_step_can_be_followed(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("talker", "echo early; " + SLEEP))
    step_id = aws.steps(cluster)["talker"]["Id"]
    key = f"logs/{cluster}/steps/{step_id}/stdout.gz"
    eventually(lambda: bool(aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix=key).get("KeyCount")))
    assert aws.step_state(cluster, step_id) == "RUNNING"
    assert aws.step_log(cluster, step_id, "stdout") == "early\n"


def test_a_step_leaves_no_background_process(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("daemon", "setsid sleep 300 & sleep 0.2; echo started"))
    step_id = aws.steps(cluster)["daemon"]["Id"]
    assert aws.wait_step(cluster, step_id)["State"] == "COMPLETED"
    assert processes_with(f"EMR_STEP_ID={step_id}") == []


def test_a_refused_step_fails_and_says_why_also_in_its_log(aws: LocalAws) -> None:
    cluster = aws.run(step("command-runner.jar", "bash", "-c", "id", name="refused"))
    step_id = aws.steps(cluster)["refused"]["Id"]
    status = aws.wait_step(cluster, step_id)
    assert status["State"] == "FAILED"
    assert status["FailureDetails"]["Reason"] == "Unknown Error."
    message = status["FailureDetails"]["Message"]
    assert message.startswith("local EMR does not run command-runner.jar with 'bash'")
    assert message in aws.step_log(cluster, step_id, "controller")


def test_bootstrap_actions_build_the_node_that_steps_run_on(aws: LocalAws) -> None:
    aws.put("wheels/a b.whl", "wheel")
    aws.put("wheels/sub/é#.whl", "other")
    body = f"""set -eu
    sudo mkdir -p "${{EMR_NODE_ROOT:-}}/opt/tool"
    aws s3 cp --recursive --quiet s3://{aws.bucket}/wheels "${{EMR_NODE_ROOT:-}}/opt/tool/wheels"
    grep -q '"isMaster": true' "${{EMR_NODE_ROOT:-}}/mnt/var/lib/info/instance.json"
    echo "made by $USER with $1" | tee "${{EMR_NODE_ROOT:-}}/opt/tool/note"
    """
    reader = 'cat "$EMR_NODE_ROOT/opt/tool/note" "$EMR_NODE_ROOT/opt/tool/wheels/sub/é#.whl"; echo; env'
    cluster = aws.run(aws.script("reader", reader), BootstrapActions=[bootstrap(aws, body, "one arg")])
    step_id = aws.steps(cluster)["reader"]["Id"]
    assert aws.wait_step(cluster, step_id)["State"] == "COMPLETED"
    out = aws.step_log(cluster, step_id, "stdout")
    assert out.startswith("made by hadoop with one arg\nother\n")
    assert "SECRET_OF_THE_SERVER" not in out
    assert "AWS_REGION=eu-west-3\n" in out
    actions = aws.emr.list_bootstrap_actions(ClusterId=cluster)["BootstrapActions"]
    assert [(a["Name"], a["Args"]) for a in actions] == [("prepare", ["one arg"])]
    node = aws.emr.list_instances(ClusterId=cluster, InstanceGroupTypes=["MASTER"])["Instances"][0]
    log = aws.log(f"{cluster}/node/{node['Ec2InstanceId']}/bootstrap-actions/1/stdout")
    assert log == "made by hadoop with one arg\n"


def test_a_failing_bootstrap_action_ends_the_cluster_and_leaves_its_log(aws: LocalAws) -> None:
    actions = [bootstrap(aws, "true"), bootstrap(aws, "echo cannot install >&2; exit 4")]
    cluster = aws.run(aws.script("never", "true"), BootstrapActions=actions)
    status = aws.wait_cluster(cluster, "TERMINATED_WITH_ERRORS")
    node = aws.emr.list_instances(ClusterId=cluster, InstanceGroupTypes=["MASTER"])["Instances"][0]
    assert status["StateChangeReason"] == {
        "Code": "BOOTSTRAP_FAILURE",
        "Message": f"On the master instance ({node['Ec2InstanceId']}), bootstrap action 2 "
        "returned a non-zero return code",
    }
    assert "ReadyDateTime" not in status["Timeline"]
    assert aws.steps(cluster)["never"]["Status"]["State"] == "CANCELLED"
    log = aws.log(f"{cluster}/node/{node['Ec2InstanceId']}/bootstrap-actions/2/stderr")
    assert log == "cannot install\n"


@pytest.mark.parametrize("path", ["s3://test-bucket/no-such.sh", "file:///bin/true"])
def test_a_bootstrap_script_that_cannot_be_had_ends_the_cluster(aws: LocalAws, path: str) -> None:
    action = {"Name": "missing", "ScriptBootstrapAction": {"Path": path, "Args": []}}
    cluster = aws.run(BootstrapActions=[action])
    reason = aws.wait_cluster(cluster, "TERMINATED_WITH_ERRORS")["StateChangeReason"]
    assert reason["Code"] == "BOOTSTRAP_FAILURE"
    assert path in reason["Message"]


def test_a_cluster_can_be_ended_while_it_bootstraps(aws: LocalAws) -> None:
    cluster = aws.run(BootstrapActions=[bootstrap(aws, SLEEP)])
    eventually(lambda: processes_with(f"EMR_CLUSTER_ID={cluster}") != [])
    assert aws.state(cluster) == "BOOTSTRAPPING"
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    assert aws.wait_cluster(cluster, "TERMINATED")["StateChangeReason"]["Code"] == "USER_REQUEST"
    assert processes_with(f"EMR_CLUSTER_ID={cluster}") == []


def test_the_nodes_aws_command_refuses_what_it_does_not_have(aws: LocalAws) -> None:
    cluster = aws.run(
        aws.script("aws", "aws s3 ls; echo code $?; aws s3 cp s3://test-bucket/none x; echo $?")
    )
    step_id = aws.steps(cluster)["aws"]["Id"]
    aws.wait_step(cluster, step_id)
    assert aws.step_log(cluster, step_id, "stdout") == "code 252\n1\n"
    assert "only `aws s3 cp" in aws.step_log(cluster, step_id, "stderr")
