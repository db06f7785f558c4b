"""A cluster of every shape starts on the local EMR, shows what was asked for, and ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.cluster import job_flow, shapes
from fruit_pipeline.settings import Settings
from support.local_aws import BUCKET, LocalAws
from support.waiting import eventually

SHAPES = shapes.shape_names(Path(__file__).resolve().parents[3])


@pytest.mark.parametrize("name", SHAPES)
def test_a_cluster_of_every_shape_starts_as_asked_for_and_ends(
    deployment: Settings, repo: Path, clusters: LocalAws, name: str
) -> None:
    emr, shape = clusters.emr, shapes.load_shape(repo, name)
    settings = replace(deployment, owner="tests", subnet_ids=("subnet-1", "subnet-2"))
    script = clusters.put(f"shapes/{name}.sh", 'echo "$1" > "$EMR_NODE_ROOT/wheelhouse.txt"')
    request = job_flow.build_request(
        settings, shape, f"shape-{name}", f"s3://{BUCKET}/shapes/{name}", script, "s3://b-1/wheels"
    )
    cluster_id = emr.run_job_flow(**request)["JobFlowId"]
    eventually(lambda: clusters.state(cluster_id) == "WAITING")

    described = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    assert [app["Name"] for app in described["Applications"]] == shape.applications
    assert described["Configurations"] == request["Configurations"]
    assert {"Key": "owner", "Value": "tests"} in described["Tags"]
    assert described["Ec2InstanceAttributes"]["Ec2SubnetId"] == "subnet-1"
    assert emr.get_auto_termination_policy(ClusterId=cluster_id)["AutoTerminationPolicy"] == {
        "IdleTimeout": shape.idle_timeout_seconds
    }
    (cluster,) = aws_clusters.clusters_of_run(emr, f"shape-{name}")
    assert cluster.id == cluster_id

    by_fleets = bool(shape.instance_fleets)
    kind = "INSTANCE_FLEET" if by_fleets else "INSTANCE_GROUP"
    assert described["InstanceCollectionType"] == kind
    for nodes in shape.nodes:
        of_role = {"InstanceFleetType": nodes.role} if by_fleets else {"InstanceGroupTypes": [nodes.role]}
        instances = emr.list_instances(ClusterId=cluster_id, **of_role)["Instances"]
        assert [(node["Market"], node["Status"]["State"]) for node in instances] == [
            (nodes.market, "RUNNING")
        ] * nodes.units
        assert {node["InstanceType"] for node in instances} <= set(nodes.weights)
    if by_fleets:
        for fleet in emr.list_instance_fleets(ClusterId=cluster_id)["InstanceFleets"]:
            assert fleet["ProvisionedOnDemandCapacity"] == fleet["TargetOnDemandCapacity"]
            assert fleet["ProvisionedSpotCapacity"] == fleet["TargetSpotCapacity"]
            instances = emr.list_instances(ClusterId=cluster_id, InstanceFleetId=fleet["Id"])["Instances"]
            assert {node["InstanceFleetId"] for node in instances} == {fleet["Id"]}
            for config in fleet["InstanceTypeSpecifications"]:
                (device,) = config["EbsBlockDevices"]
                assert device["VolumeSpecification"] == {"VolumeType": "gp3", "SizeInGB": shape.ebs_gb}
    else:
        for group in emr.list_instance_groups(ClusterId=cluster_id)["InstanceGroups"]:
            (device,) = group["EbsBlockDevices"]
            assert device["VolumeSpecification"] == {"VolumeType": "gp3", "SizeInGB": shape.ebs_gb}

    emr.terminate_job_flows(JobFlowIds=[cluster_id])
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")


def test_a_security_configuration_must_exist(deployment: Settings, repo: Path, clusters: LocalAws) -> None:
    settings = replace(deployment, security_configuration="imdsv2")
    script = clusters.put("shapes/true.sh", "true")
    request = job_flow.build_request(
        settings, shapes.load_shape(repo, "small"), "secured", f"s3://{BUCKET}/shapes", script, "s3://b-1/w"
    )
    with pytest.raises(clusters.emr.exceptions.InvalidRequestException, match="'imdsv2' does not exist"):
        clusters.emr.run_job_flow(**request)
    only_v2 = '{"InstanceMetadataServiceConfiguration": {"MinimumInstanceMetadataServiceVersion": 2}}'
    clusters.emr.create_security_configuration(Name="imdsv2", SecurityConfiguration=only_v2)
    cluster_id = clusters.emr.run_job_flow(**request)["JobFlowId"]
    described = clusters.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    assert described["SecurityConfiguration"] == "imdsv2"
    clusters.emr.delete_security_configuration(Name="imdsv2")
