"""The life of clusters and steps, seen through boto3; steps are small bash scripts."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.local_aws import LocalAws, client, step
from support.processes import processes_with
from support.waiting import eventually

SLEEP = "sleep 600"


def quick(waiter: Any) -> Any:
    waiter.config.delay, waiter.config.max_attempts = 1, 30
    return waiter


def bootstrap(aws: LocalAws, body: str, *args: str) -> dict[str, Any]:
    path = aws.put(f"bootstrap/{abs(hash(body))}.sh", body)
    return {"Name": "prepare", "ScriptBootstrapAction": {"Path": path, "Args": list(args)}}


# Life cycle


def test_a_cluster_runs_its_steps_and_ends_by_itself(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("hello", "echo hello $1", "you"), keep=False)
    quick(aws.emr.get_waiter("cluster_terminated")).wait(ClusterId=cluster)
    status = aws.cluster(cluster)["Status"]
    assert status["StateChangeReason"] == {"Code": "ALL_STEPS_COMPLETED", "Message": "Steps completed"}
    times = status["Timeline"]
    assert times["CreationDateTime"] <= times["ReadyDateTime"] <= times["EndDateTime"]
    done = aws.steps(cluster)["hello"]
    assert done["Status"]["State"] == "COMPLETED"
    assert set(done["Status"]["Timeline"]) == {"CreationDateTime", "StartDateTime", "EndDateTime"}
    assert aws.step_log(cluster, done["Id"], "stdout") == "hello you\n"


def test_the_waiters_of_boto3_see_a_cluster_run_a_step_complete_and_an_end(aws: LocalAws) -> None:
    cluster = aws.run()
    quick(aws.emr.get_waiter("cluster_running")).wait(ClusterId=cluster)
    aws.wait_cluster(cluster, "WAITING")
    (step_id,) = aws.add(cluster, aws.script("true", "true"))
    quick(aws.emr.get_waiter("step_complete")).wait(ClusterId=cluster, StepId=step_id)
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    quick(aws.emr.get_waiter("cluster_terminated")).wait(ClusterId=cluster)
    assert aws.cluster(cluster)["Status"]["StateChangeReason"]["Code"] == "USER_REQUEST"


def test_keep_alive_can_be_taken_away_later(aws: LocalAws) -> None:
    cluster = aws.run()
    aws.wait_cluster(cluster, "WAITING")
    aws.emr.set_keep_job_flow_alive_when_no_steps(JobFlowIds=[cluster], KeepJobFlowAliveWhenNoSteps=False)
    assert aws.wait_cluster(cluster, "TERMINATED")["StateChangeReason"]["Code"] == "ALL_STEPS_COMPLETED"


def test_the_end_of_a_cluster_cancels_its_running_and_its_pending_steps(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("running", SLEEP), aws.script("pending", SLEEP))
    eventually(lambda: aws.steps(cluster)["running"]["Status"]["State"] == "RUNNING")
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "TERMINATED")
    assert {name: s["Status"]["State"] for name, s in aws.steps(cluster).items()} == {
        "running": "CANCELLED",
        "pending": "CANCELLED",
    }
    assert processes_with(f"EMR_CLUSTER_ID={cluster}") == []


def test_protection_forbids_the_end(aws: LocalAws) -> None:
    cluster = aws.run(Instances={"TerminationProtected": True})
    with pytest.raises(ClientError, match=r"ValidationException.*termination protected"):
        aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "WAITING")
    aws.emr.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=False)
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "TERMINATED")


# Failures


@pytest.mark.parametrize("action", ["TERMINATE_CLUSTER", "TERMINATE_JOB_FLOW"])
def test_a_failed_step_ends_the_cluster_when_it_says_so(aws: LocalAws, action: str) -> None:
    bad = aws.script("bad", "echo 'no disk' >&2; exit 3", on_failure=action)
    cluster = aws.run(bad, aws.script("next", "true"))
    status = aws.wait_cluster(cluster, "TERMINATED_WITH_ERRORS")
    assert status["StateChangeReason"] == {"Code": "STEP_FAILURE", "Message": "Shut down as step failed"}
    steps = aws.steps(cluster)
    assert steps["next"]["Status"]["State"] == "CANCELLED"
    failure = steps["bad"]["Status"]["FailureDetails"]
    assert failure["Message"] == "no disk (exit code 3)"
    assert failure["LogFile"] == f"s3://{aws.bucket}/logs/{cluster}/steps/{steps['bad']['Id']}/stderr.gz"
    assert aws.step_log(cluster, steps["bad"]["Id"], "stderr") == "no disk\n"


def test_cancel_and_wait_drops_what_is_pending_and_keeps_the_cluster(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("bad", "exit 1", on_failure="CANCEL_AND_WAIT"), aws.script("next", "true"))
    aws.wait_cluster(cluster, "WAITING")
    states = {name: s["Status"]["State"] for name, s in aws.steps(cluster).items()}
    assert states == {"bad": "FAILED", "next": "CANCELLED"}


def test_continue_goes_on_to_the_next_step(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("bad", "exit 1"), aws.script("next", "true"))
    aws.wait_cluster(cluster, "WAITING")
    states = {name: s["Status"]["State"] for name, s in aws.steps(cluster).items()}
    assert states == {"bad": "FAILED", "next": "COMPLETED"}


def test_protection_turns_terminate_into_cancel_and_wait(aws: LocalAws) -> None:
    bad = aws.script("bad", "exit 1", on_failure="TERMINATE_CLUSTER")
    cluster = aws.run(bad, aws.script("next", "true"), Instances={"TerminationProtected": True})
    aws.wait_cluster(cluster, "WAITING")
    assert aws.steps(cluster)["next"]["Status"]["State"] == "CANCELLED"


# Steps


def test_steps_run_one_after_the_other_and_are_listed_newest_first(aws: LocalAws) -> None:
    body = f"aws s3 cp s3://{aws.bucket}/order - >> /dev/null 2>&1; date +%s%N"
    cluster = aws.run(*(aws.script(name, body) for name in "abc"))
    aws.wait_cluster(cluster, "WAITING")
    steps = aws.emr.list_steps(ClusterId=cluster)["Steps"]
    assert [s["Name"] for s in steps] == ["c", "b", "a"]
    times = [s["Status"]["Timeline"] for s in reversed(steps)]
    assert all(a["EndDateTime"] <= b["StartDateTime"] for a, b in pairwise(times))
    listed = aws.emr.list_steps(ClusterId=cluster, StepIds=[steps[1]["Id"]], StepStates=["COMPLETED"])[
        "Steps"
    ]
    assert [s["Name"] for s in listed] == ["b"]
    assert aws.emr.list_steps(ClusterId=cluster, StepStates=["FAILED"])["Steps"] == []


def test_steps_run_together_up_to_the_concurrency_level(aws: LocalAws) -> None:
    cluster = aws.run(*(aws.script(name, SLEEP) for name in "abc"), StepConcurrencyLevel=2)

    def states() -> list[str]:
        return sorted(s["Status"]["State"] for s in aws.steps(cluster).values())

    eventually(lambda: states() == ["PENDING", "RUNNING", "RUNNING"])
    assert aws.emr.modify_cluster(ClusterId=cluster, StepConcurrencyLevel=3)["StepConcurrencyLevel"] == 3
    eventually(lambda: states() == ["RUNNING", "RUNNING", "RUNNING"])


def test_pending_and_running_steps_can_be_cancelled_finished_ones_cannot(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("done", "true"), aws.script("running", SLEEP), aws.script("pending", SLEEP))
    eventually(lambda: aws.steps(cluster)["running"]["Status"]["State"] == "RUNNING")
    steps = aws.steps(cluster)
    ids = [steps[name]["Id"] for name in ("done", "running", "pending")]
    answers = aws.emr.cancel_steps(ClusterId=cluster, StepIds=ids)["CancelStepsInfoList"]
    assert [a["Status"] for a in answers] == ["FAILED", "SUBMITTED", "SUBMITTED"]
    assert "COMPLETED" in answers[0]["Reason"]
    assert aws.wait_step(cluster, ids[1])["State"] == "CANCELLED"
    assert aws.step_state(cluster, ids[2]) == "CANCELLED"
    aws.wait_cluster(cluster, "WAITING")


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


@pytest.mark.parametrize(
    ("jar", "args"),
    [
        ("command-runner.jar", ["bash", "-c", "id"]),
        ("command-runner.jar", []),
        ("command-runner.jar", ["spark-submit", "/etc/passwd"]),
        ("command-runner.jar", ["spark-submit", "https://example.com/job.py"]),
        ("command-runner.jar", ["spark-submit", "--unheard-of", "x", "s3://test-bucket/a.py"]),
        ("s3://eu-west-3.elasticmapreduce/libs/script-runner/script-runner.jar", ["file:///bin/true"]),
        ("s3://eu-west-3.elasticmapreduce/libs/script-runner/script-runner.jar", ["/bin/true"]),
        (
            "s3://eu-west-3.elasticmapreduce/libs/script-runner/script-runner.jar",
            ["s3://test-bucket/missing.sh"],
        ),
        ("s3://test-bucket/my.jar", []),
    ],
)
def test_what_is_not_allowed_fails_the_step_and_says_why(aws: LocalAws, jar: str, args: list[str]) -> None:
    cluster = aws.run(step(jar, *args, name="refused"))
    step_id = aws.steps(cluster)["refused"]["Id"]
    status = aws.wait_step(cluster, step_id)
    assert status["State"] == "FAILED"
    message = status["FailureDetails"]["Message"]
    assert any(
        word in message for word in ("local EMR", "only", "not on the node", "unrecognized", "cannot read")
    )
    assert message in aws.step_log(cluster, step_id, "controller")


# Bootstrap actions


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


# Instances and policies


def test_instance_groups_show_their_size_and_state(aws: LocalAws) -> None:
    cluster = aws.run()
    aws.wait_cluster(cluster, "WAITING")
    assert aws.cluster(cluster)["InstanceCollectionType"] == "INSTANCE_GROUP"
    groups = aws.emr.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
    assert [(g["InstanceGroupType"], g["RunningInstanceCount"], g["Status"]["State"]) for g in groups] == [
        ("MASTER", 1, "RUNNING"),
        ("CORE", 2, "RUNNING"),
    ]
    assert len(aws.emr.list_instances(ClusterId=cluster, InstanceStates=["RUNNING"])["Instances"]) == 3
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "TERMINATED")
    (group, _) = aws.emr.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
    assert (group["Status"]["State"], group["RunningInstanceCount"]) == ("TERMINATED", 0)
    assert group["Status"]["Timeline"]["EndDateTime"]


def test_instance_fleets_are_provisioned_to_their_targets(aws: LocalAws) -> None:
    def fleet(kind: str, on_demand: int, spot: int, weight: int) -> dict[str, Any]:
        types = [{"InstanceType": "m5.xlarge", "WeightedCapacity": weight}, {"InstanceType": "m6i.xlarge"}]
        return {
            "InstanceFleetType": kind,
            "TargetOnDemandCapacity": on_demand,
            "TargetSpotCapacity": spot,
            "InstanceTypeConfigs": types,
        }

    cluster = aws.run(Instances={"InstanceFleets": [fleet("MASTER", 1, 0, 1), fleet("CORE", 1, 5, 2)]})
    aws.wait_cluster(cluster, "WAITING")
    assert aws.cluster(cluster)["InstanceCollectionType"] == "INSTANCE_FLEET"
    _, core = aws.emr.list_instance_fleets(ClusterId=cluster)["InstanceFleets"]
    assert core["Status"]["State"] == "RUNNING"
    assert (core["ProvisionedOnDemandCapacity"], core["ProvisionedSpotCapacity"]) == (2, 6)
    instances = aws.emr.list_instances(ClusterId=cluster, InstanceFleetType="CORE")["Instances"]
    assert sorted(i["Market"] for i in instances) == ["ON_DEMAND", "SPOT", "SPOT", "SPOT"]
    assert {i["InstanceFleetId"] for i in instances} == {core["Id"]}
    with pytest.raises(ClientError, match="InvalidRequestException"):
        aws.emr.list_instance_groups(ClusterId=cluster)


def test_the_simple_form_makes_a_master_and_a_core_group(aws: LocalAws) -> None:
    simple = {"MasterInstanceType": "m5.xlarge", "SlaveInstanceType": "m5.2xlarge", "InstanceCount": 4}
    answer = aws.emr.run_job_flow(Name="simple", Instances=simple)
    groups = aws.emr.list_instance_groups(ClusterId=answer["JobFlowId"])["InstanceGroups"]
    assert [(g["InstanceType"], g["RequestedInstanceCount"]) for g in groups] == [
        ("m5.xlarge", 1),
        ("m5.2xlarge", 3),
    ]


def test_policies_and_tags_are_kept_changed_and_removed(aws: LocalAws) -> None:
    scaling = {
        "ComputeLimits": {"UnitType": "Instances", "MinimumCapacityUnits": 1, "MaximumCapacityUnits": 4}
    }
    cluster = aws.run(
        AutoTerminationPolicy={"IdleTimeout": 600},
        ManagedScalingPolicy=scaling,
        Tags=[{"Key": "team", "Value": "fruit"}, {"Key": "run", "Value": "1"}],
    )
    get = aws.emr.get_auto_termination_policy
    assert get(ClusterId=cluster)["AutoTerminationPolicy"] == {"IdleTimeout": 600}
    aws.emr.put_auto_termination_policy(ClusterId=cluster, AutoTerminationPolicy={"IdleTimeout": 60})
    assert get(ClusterId=cluster)["AutoTerminationPolicy"] == {"IdleTimeout": 60}
    aws.emr.remove_auto_termination_policy(ClusterId=cluster)
    assert "AutoTerminationPolicy" not in get(ClusterId=cluster)
    assert aws.emr.get_managed_scaling_policy(ClusterId=cluster)["ManagedScalingPolicy"] == scaling
    aws.emr.remove_managed_scaling_policy(ClusterId=cluster)
    assert "ManagedScalingPolicy" not in aws.emr.get_managed_scaling_policy(ClusterId=cluster)
    aws.emr.put_managed_scaling_policy(ClusterId=cluster, ManagedScalingPolicy=scaling)
    assert aws.emr.get_managed_scaling_policy(ClusterId=cluster)["ManagedScalingPolicy"] == scaling
    aws.emr.remove_tags(ResourceId=cluster, TagKeys=["run"])
    aws.emr.add_tags(ResourceId=cluster, Tags=[{"Key": "more", "Value": "é"}])
    tags = {tag["Key"]: tag["Value"] for tag in aws.cluster(cluster)["Tags"]}
    assert tags == {"team": "fruit", "more": "é"}


# Listing, regions, errors


def test_clusters_are_listed_by_state_and_time_in_pages_newest_first(aws: LocalAws) -> None:
    other = client(aws.endpoint, "emr", "us-west-2")
    ids = [
        other.run_job_flow(Name=f"n{n}", Instances={"MasterInstanceType": "m5.xlarge"})["JobFlowId"]
        for n in range(55)
    ]
    quick(other.get_waiter("cluster_terminated")).wait(ClusterId=ids[-1])
    first = other.list_clusters()
    assert len(first["Clusters"]) == 50
    everything = [
        c["Id"] for page in other.get_paginator("list_clusters").paginate() for c in page["Clusters"]
    ]
    assert everything == ids[::-1]
    middle = other.describe_cluster(ClusterId=ids[27])["Cluster"]["Status"]["Timeline"]["CreationDateTime"]
    assert ids[10] not in [c["Id"] for c in other.list_clusters(CreatedAfter=middle)["Clusters"]]
    assert ids[50] not in [c["Id"] for c in other.list_clusters(CreatedBefore=middle)["Clusters"]]
    assert other.list_clusters(ClusterStates=["WAITING"])["Clusters"] == []


def test_a_cluster_lives_in_the_region_it_was_made_in(aws: LocalAws) -> None:
    cluster = aws.run()
    assert aws.cluster(cluster)["ClusterArn"].startswith("arn:aws:elasticmapreduce:eu-west-3:")
    with pytest.raises(ClientError, match=r"InvalidRequestException.*is not valid"):
        client(aws.endpoint, "emr", "us-east-1").describe_cluster(ClusterId=cluster)


def test_an_unknown_cluster_or_step_is_an_error(aws: LocalAws) -> None:
    with pytest.raises(ClientError, match=r"InvalidRequestException.*Cluster id 'j-NONE' is not valid"):
        aws.emr.describe_cluster(ClusterId="j-NONE")
    with pytest.raises(ClientError, match=r"ValidationException.*does not exist"):
        aws.add("j-NONE", step("command-runner.jar", "spark-submit", "s3://b/k"))
    cluster = aws.run()
    with pytest.raises(ClientError, match=r"InvalidRequestException.*Step id 's-NONE' is not valid"):
        aws.emr.describe_step(ClusterId=cluster, StepId="s-NONE")


def test_an_ended_cluster_cannot_be_changed(aws: LocalAws) -> None:
    cluster = aws.run(keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    with pytest.raises(ClientError, match=r"ValidationException.*may not be modified"):
        aws.add(cluster, aws.script("late", "true"))
    with pytest.raises(ClientError, match=r"ValidationException.*may not be modified"):
        aws.emr.modify_cluster(ClusterId=cluster, StepConcurrencyLevel=2)
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])  # as on EMR, no error


@pytest.mark.parametrize("seconds", [59, 604_801])
def test_an_idle_timeout_out_of_bounds_is_refused(aws: LocalAws, seconds: int) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*IdleTimeout"):
        aws.run(AutoTerminationPolicy={"IdleTimeout": seconds})


def test_limits_of_steps_are_emrs(aws: LocalAws) -> None:
    cluster = aws.run(aws.script("busy", SLEEP))
    long = step("command-runner.jar", "spark-submit", "x" * 10_220)
    with pytest.raises(ClientError, match="10240 characters"):
        aws.add(cluster, long)
    many = [step("command-runner.jar", "spark-submit", "s3://b/k") for _ in range(256)]
    with pytest.raises(ClientError, match="Maximum number of active steps"):
        aws.add(cluster, *many)
    assert len(aws.add(cluster, *many[:255])) == 255
    with pytest.raises(ClientError, match="ActionOnFailure"):
        aws.run(aws.script("a", "true", on_failure="TERMINATE_CLUSTER"), StepConcurrencyLevel=2)


def fleet(kind: str, *types: str, launch: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    made = {
        "InstanceFleetType": kind,
        "TargetOnDemandCapacity": 1,
        "InstanceTypeConfigs": [{"InstanceType": name} for name in types or ("m5.xlarge",)],
        **fields,
    }
    return {**made, "LaunchSpecifications": launch} if launch else made


def spot(minutes: int, strategy: str = "price-capacity-optimized") -> dict[str, Any]:
    action = {"TimeoutAction": "SWITCH_TO_ON_DEMAND", "AllocationStrategy": strategy}
    return {"SpotSpecification": {"TimeoutDurationMinutes": minutes, **action}}


MANY = [f"m{number}.xlarge" for number in range(31)]


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        ([fleet("MASTER"), fleet("TASK"), fleet("TASK")], "At most one task instance fleet"),
        ([fleet("MASTER", "m5.xlarge", "m5.xlarge")], "each type once"),
        ([fleet("MASTER"), fleet("CORE", *MANY, launch=spot(5))], "takes 30 instance types"),
        ([fleet("MASTER"), fleet("CORE", *MANY[:6])], "5 without, not 6"),
        ([fleet("MASTER", TargetOnDemandCapacity=2)], "master instance fleet must be 1"),
        ([fleet("MASTER"), fleet("CORE", TargetOnDemandCapacity=0)], "must be greater than 0"),
        ([fleet("MASTER"), fleet("CORE", launch=spot(4))], "must be between 5 and 1440, not 4"),
        ([fleet("MASTER"), fleet("CORE", launch=spot(1441))], "must be between 5 and 1440, not 1441"),
    ],
)
def test_fleets_that_emr_refuses_are_refused(aws: LocalAws, fleets: list[Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        aws.run(Instances={"InstanceFleets": fleets})


def test_fleets_take_several_subnets_and_groups_one(aws: LocalAws) -> None:
    subnets = ["subnet-1", "subnet-2"]
    cluster = aws.run(Instances={"InstanceFleets": [fleet("MASTER")], "Ec2SubnetIds": subnets})
    attributes = aws.cluster(cluster)["Ec2InstanceAttributes"]
    assert (attributes["Ec2SubnetId"], attributes["RequestedEc2SubnetIds"]) == ("subnet-1", subnets)
    for instances in (
        {"InstanceFleets": [fleet("MASTER")], "Ec2SubnetId": "subnet-1"},
        {"Ec2SubnetIds": ["subnet-1"]},
    ):
        with pytest.raises(ClientError, match="Instance groups take Ec2SubnetId, instance fleets take"):
            aws.run(Instances=instances)


def test_ebs_volumes_are_shown_one_by_one(aws: LocalAws) -> None:
    volume = {"VolumeType": "gp3", "SizeInGB": 20}
    ebs = {"EbsBlockDeviceConfigs": [{"VolumeSpecification": volume, "VolumesPerInstance": 2}]}
    shown = [{"VolumeSpecification": volume, "Device": f"/dev/sd{letter}"} for letter in "bc"]
    group = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
    cluster = aws.run(Instances={"InstanceGroups": [{**group, "EbsConfiguration": ebs}]})
    (found,) = aws.emr.list_instance_groups(ClusterId=cluster)["InstanceGroups"]
    assert found["EbsBlockDevices"] == shown
    types = [{"InstanceType": "m5.xlarge", "EbsConfiguration": ebs}, {"InstanceType": "m6i.xlarge"}]
    cluster = aws.run(Instances={"InstanceFleets": [fleet("MASTER", InstanceTypeConfigs=types)]})
    (found,) = aws.emr.list_instance_fleets(ClusterId=cluster)["InstanceFleets"]
    assert [config["EbsBlockDevices"] for config in found["InstanceTypeSpecifications"]] == [shown, []]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Name": "n" * 257}, "job flow name"),
        ({"Name": "a|b"}, "job flow name"),
        ({"Tags": [{"Key": f"k{n}", "Value": ""} for n in range(51)]}, "At most 50 tags"),
        ({"Tags": [{"Key": "k", "Value": "a"}, {"Key": "k", "Value": "b"}]}, "each key once"),
        ({"Tags": [{"Key": "k" * 129, "Value": ""}]}, "is not valid"),
        ({"Tags": [{"Key": "k", "Value": "v" * 257}]}, "is not valid"),
        ({"Tags": [{"Key": "aws:k", "Value": ""}]}, "is not valid"),
        ({"Tags": [{"Key": "k", "Value": "who?"}]}, "is not valid"),
        (
            {"BootstrapActions": [{"Name": "b", "ScriptBootstrapAction": {"Path": "s3://b/k"}}] * 17},
            "At most 16 bootstrap actions",
        ),
        ({"SecurityConfiguration": "none"}, "Security configuration with name 'none' does not exist"),
    ],
)
def test_limits_of_a_cluster_are_emrs(aws: LocalAws, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        aws.run(**fields)


def test_groups_and_fleets_exclude_each_other(aws: LocalAws) -> None:
    both = {
        "InstanceGroups": [{"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}],
        "InstanceFleets": [
            {
                "InstanceFleetType": "MASTER",
                "TargetOnDemandCapacity": 1,
                "InstanceTypeConfigs": [{"InstanceType": "m5.xlarge"}],
            }
        ],
    }
    with pytest.raises(ClientError, match=r"ValidationException.*mutually exclusive"):
        aws.emr.run_job_flow(Name="both", Instances=both)


def test_changes_of_state_reach_a_queue_through_eventbridge(aws: LocalAws) -> None:
    events, sqs = client(aws.endpoint, "events"), client(aws.endpoint, "sqs")
    queue = sqs.create_queue(QueueName="emr-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="emr", EventPattern=json.dumps({"source": ["aws.emr"]}))
    events.put_targets(Rule="emr", Targets=[{"Id": "queue", "Arn": arn}])
    cluster = aws.run(aws.script("true", "true"), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    seen: list[tuple[str, str]] = []

    def drained() -> bool:
        for message in sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", []):
            body = json.loads(message["Body"])
            if body["detail"]["clusterId"] == cluster:
                seen.append((body["detail-type"], body["detail"]["state"]))
        return ("EMR Cluster State Change", "TERMINATED") in seen

    eventually(drained)
    events.remove_targets(Rule="emr", Ids=["queue"])
    events.delete_rule(Name="emr")
    assert ("EMR Step Status Change", "COMPLETED") in seen
