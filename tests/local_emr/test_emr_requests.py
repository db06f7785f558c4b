"""Requests that EMR refuses are refused with its limits, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from moto.emr.exceptions import InvalidRequestException, ValidationException

from local_emr.emr import requests
from local_emr.emr.cluster import Cluster

SIMPLE = {"MasterInstanceType": "m5.xlarge", "KeepJobFlowAliveWhenNoSteps": True}
MANY_TYPES = [f"m{number}.xlarge" for number in range(31)]


def cluster(**fields: Any) -> Cluster:
    request = {"Name": "test", "Instances": SIMPLE, **fields}
    return requests.cluster_from(request, "eu-west-3", "123456789012")


def step(*args: str, **fields: Any) -> dict[str, Any]:
    jar = {"Jar": "command-runner.jar", "Args": list(args)}
    return {"Name": "step", "ActionOnFailure": "CONTINUE", "HadoopJarStep": jar, **fields}


def fleet(role: str, *types: str, launch: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    request = {
        "InstanceFleetType": role,
        "TargetOnDemandCapacity": 1,
        "InstanceTypeConfigs": [{"InstanceType": name} for name in types or ("m5.xlarge",)],
        **fields,
    }
    return {**request, "LaunchSpecifications": launch} if launch else request


def spot(minutes: int) -> dict[str, Any]:
    strategy = {"TimeoutAction": "SWITCH_TO_ON_DEMAND", "AllocationStrategy": "price-capacity-optimized"}
    return {"SpotSpecification": {"TimeoutDurationMinutes": minutes, **strategy}}


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
            {"BootstrapActions": [{"ScriptBootstrapAction": {"Path": "s3://b/k"}}] * 17},
            "At most 16 bootstrap",
        ),
        ({"AutoTerminationPolicy": {"IdleTimeout": 59}}, "IdleTimeout"),
        ({"AutoTerminationPolicy": {"IdleTimeout": 604_801}}, "IdleTimeout"),
        (
            {"StepConcurrencyLevel": 2, "Steps": [step(ActionOnFailure="TERMINATE_CLUSTER")]},
            "ActionOnFailure setting TERMINATE_CLUSTER is not valid",
        ),
    ],
)
def test_limits_of_a_cluster_are_emrs(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationException, match=message):
        cluster(**fields)


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        ([fleet("MASTER"), fleet("TASK"), fleet("TASK")], "At most one task instance fleet"),
        ([fleet("MASTER", "m5.xlarge", "m5.xlarge")], "each type once"),
        ([fleet("MASTER"), fleet("CORE", *MANY_TYPES, launch=spot(5))], "takes 30 instance types"),
        ([fleet("MASTER"), fleet("CORE", *MANY_TYPES[:6])], "5 without, not 6"),
        ([fleet("MASTER", TargetOnDemandCapacity=2)], "master instance fleet must be 1"),
        ([fleet("MASTER"), fleet("CORE", TargetOnDemandCapacity=0)], "must be greater than 0"),
        ([fleet("MASTER"), fleet("CORE", launch=spot(4))], "must be between 5 and 1440, not 4"),
        ([fleet("MASTER"), fleet("CORE", launch=spot(1441))], "must be between 5 and 1440, not 1441"),
    ],
)
def test_fleets_that_emr_refuses_are_refused(fleets: list[Any], message: str) -> None:
    with pytest.raises(ValidationException, match=message):
        cluster(Instances={"InstanceFleets": fleets})


def test_groups_and_fleets_exclude_each_other() -> None:
    group = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
    with pytest.raises(ValidationException, match="mutually exclusive"):
        cluster(Instances={"InstanceGroups": [group], "InstanceFleets": [fleet("MASTER")]})


def test_fleets_take_several_subnets_and_groups_one() -> None:
    subnets = ["subnet-1", "subnet-2"]
    described = cluster(Instances={"InstanceFleets": [fleet("MASTER")], "Ec2SubnetIds": subnets}).describe()
    attributes = described["Ec2InstanceAttributes"]
    assert (attributes["Ec2SubnetId"], attributes["RequestedEc2SubnetIds"]) == ("subnet-1", subnets)
    group = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
    for instances in (
        {"InstanceFleets": [fleet("MASTER")], "Ec2SubnetId": "subnet-1"},
        {"InstanceGroups": [group], "Ec2SubnetIds": ["subnet-1"]},
    ):
        with pytest.raises(
            ValidationException, match="Instance groups take Ec2SubnetId, instance fleets take"
        ):
            cluster(Instances=instances)


def test_limits_of_steps_are_emrs() -> None:
    busy = cluster(Steps=[step("spark-submit")])
    with pytest.raises(ValidationException, match="10240 characters"):
        requests.steps_from([step("spark-submit", "x" * 10_220)], busy)
    with pytest.raises(ValidationException, match="Maximum number of active steps"):
        requests.steps_from([step()] * 256, busy)
    assert len(requests.steps_from([step()] * 255, busy)) == 255


@pytest.mark.parametrize("level", [0, 257])
def test_the_step_concurrency_level_has_emrs_limits(level: int) -> None:
    with pytest.raises(InvalidRequestException, match="between 1 and 256"):
        requests.check_concurrency(level)


def test_the_simple_form_makes_a_master_and_a_core_group() -> None:
    simple = {"MasterInstanceType": "m5.xlarge", "SlaveInstanceType": "m5.2xlarge", "InstanceCount": 4}
    groups = cluster(Instances=simple).collection.describe_groups()
    assert [(g["InstanceType"], g["RequestedInstanceCount"]) for g in groups] == [
        ("m5.xlarge", 1),
        ("m5.2xlarge", 3),
    ]


def test_ebs_volumes_are_described_one_by_one() -> None:
    volume = {"VolumeType": "gp3", "SizeInGB": 20}
    ebs = {"EbsBlockDeviceConfigs": [{"VolumeSpecification": volume, "VolumesPerInstance": 2}]}
    devices = [{"VolumeSpecification": volume, "Device": f"/dev/sd{letter}"} for letter in "bc"]
    group = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
    groups = cluster(Instances={"InstanceGroups": [{**group, "EbsConfiguration": ebs}]})
    assert groups.collection.describe_groups()[0]["EbsBlockDevices"] == devices
    types = [{"InstanceType": "m5.xlarge", "EbsConfiguration": ebs}, {"InstanceType": "m6i.xlarge"}]
    fleets = cluster(Instances={"InstanceFleets": [fleet("MASTER", InstanceTypeConfigs=types)]})
    (described,) = fleets.collection.describe_fleets()
    assert [spec["EbsBlockDevices"] for spec in described["InstanceTypeSpecifications"]] == [devices, []]
