"""EMR's API through boto3: what it returns, lists and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from support.local_aws import LocalAws, client, step
from support.waiting import eventually

SLEEP = "sleep 600"


def quick(waiter: Any) -> Any:
    waiter.config.delay, waiter.config.max_attempts = 1, 30
    return waiter


def test_the_waiters_of_boto3_see_a_cluster_run_a_step_complete_and_an_end(aws: LocalAws) -> None:
    cluster = aws.run()
    quick(aws.emr.get_waiter("cluster_running")).wait(ClusterId=cluster)
    aws.wait_cluster(cluster, "WAITING")
    (step_id,) = aws.add(cluster, aws.script("true", "true"))
    quick(aws.emr.get_waiter("step_complete")).wait(ClusterId=cluster, StepId=step_id)
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    quick(aws.emr.get_waiter("cluster_terminated")).wait(ClusterId=cluster)
    assert aws.cluster(cluster)["Status"]["StateChangeReason"]["Code"] == "USER_REQUEST"


def test_protection_forbids_the_end(aws: LocalAws) -> None:
    cluster = aws.run(Instances={"TerminationProtected": True})
    with pytest.raises(ClientError, match=r"ValidationException.*termination protected"):
        aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "WAITING")
    aws.emr.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=False)
    aws.emr.terminate_job_flows(JobFlowIds=[cluster])
    aws.wait_cluster(cluster, "TERMINATED")


def test_steps_are_listed_newest_first_by_id_and_by_state(aws: LocalAws) -> None:
    cluster = aws.run(*(aws.script(name, "true") for name in "abc"))
    aws.wait_cluster(cluster, "WAITING")
    steps = aws.emr.list_steps(ClusterId=cluster)["Steps"]
    assert [s["Name"] for s in steps] == ["c", "b", "a"]
    listed = aws.emr.list_steps(ClusterId=cluster, StepIds=[steps[1]["Id"]], StepStates=["COMPLETED"])
    assert [s["Name"] for s in listed["Steps"]] == ["b"]
    assert aws.emr.list_steps(ClusterId=cluster, StepStates=["FAILED"])["Steps"] == []


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


def test_policies_tags_and_settings_can_be_changed_and_removed(aws: LocalAws) -> None:
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
    assert aws.emr.modify_cluster(ClusterId=cluster, StepConcurrencyLevel=3)["StepConcurrencyLevel"] == 3
    assert aws.cluster(cluster)["StepConcurrencyLevel"] == 3
    aws.emr.set_keep_job_flow_alive_when_no_steps(JobFlowIds=[cluster], KeepJobFlowAliveWhenNoSteps=False)
    aws.wait_cluster(cluster, "TERMINATED")


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


def test_a_refused_request_is_an_error_of_the_client(aws: LocalAws) -> None:
    with pytest.raises(ClientError, match=r"ValidationException.*IdleTimeout must be between 60 and 604800"):
        aws.run(AutoTerminationPolicy={"IdleTimeout": 59})
    with pytest.raises(ClientError, match="Security configuration with name 'none' does not exist"):
        aws.run(SecurityConfiguration="none")
    cluster = aws.run(aws.script("busy", SLEEP))
    with pytest.raises(ClientError, match=r"ValidationException.*10240 characters"):
        aws.add(cluster, step("command-runner.jar", "spark-submit", "x" * 10_220))


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
