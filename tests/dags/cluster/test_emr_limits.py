"""Requests are checked for EMR's documented limits: at a limit they pass, above it they do not."""

from __future__ import annotations

from typing import Any

import pytest

from fruit_pipeline.cluster import emr_limits
from image_features.errors import JobError

STRATEGY = {"OnDemandSpecification": {"AllocationStrategy": "lowest-price"}}
SPOT = {"TimeoutAction": "SWITCH_TO_ON_DEMAND", "AllocationStrategy": "diversified"}


def request(**fields: Any) -> dict[str, Any]:
    group = {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1}
    return {"Name": "n", "Instances": {"InstanceGroups": [group]}, **fields}


def fleets(types: int, launch: dict[str, Any] | None = None, **instances: Any) -> dict[str, Any]:
    configs = [{"InstanceType": f"m{n}.xlarge"} for n in range(types)]
    fleet = {"InstanceFleetType": "TASK", "InstanceTypeConfigs": configs}
    if launch:
        fleet["LaunchSpecifications"] = launch
    return request(Instances={"InstanceFleets": [fleet], **instances})


def volume(size: int) -> dict[str, Any]:
    device = {"VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": size}}
    group = {"InstanceRole": "CORE", "EbsConfiguration": {"EbsBlockDeviceConfigs": [device]}}
    return request(Instances={"InstanceGroups": [group]})


def tags(*pairs: tuple[str, str]) -> dict[str, Any]:
    return request(Tags=[{"Key": key, "Value": value} for key, value in pairs])


def numbered(count: int) -> list[tuple[str, str]]:
    return [(f"k{n}", "v") for n in range(count)]


@pytest.mark.parametrize(
    "good",
    [
        request(Name="n" * 256),
        request(Name="image-features run_1 (é) & more"),
        request(BootstrapActions=[{"Name": "a"}] * 16),
        request(AutoTerminationPolicy={"IdleTimeout": 60}),
        request(AutoTerminationPolicy={"IdleTimeout": 604_800}),
        tags(*numbered(50)),
        tags(("k" * 128, "v" * 256)),
        tags(("équipe", "données fruits_.:/=+-@"), ("empty", "")),
        fleets(30, STRATEGY),
        fleets(5),
        fleets(1, {"SpotSpecification": {"TimeoutDurationMinutes": 5, **SPOT}}),
        fleets(1, {"SpotSpecification": {"TimeoutDurationMinutes": 1440, **SPOT}}),
        fleets(1, Ec2SubnetIds=["subnet-1"]),
        request(Instances={"InstanceGroups": [{"InstanceRole": "TASK"}] * 48, "Ec2SubnetId": "subnet-1"}),
        volume(1),
        volume(1024),
    ],
)
def test_what_is_at_a_limit_passes(good: dict[str, Any]) -> None:
    emr_limits.check_job_flow(good)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request(Name="n" * 257), "has 257 characters, EMR allows 256"),
        (request(Name="<run>"), "contains one of <>"),
        (request(Name="a|b"), "contains one of <>"),
        (request(Name="a`b"), "contains one of <>"),
        (request(Name="$a"), "contains one of <>"),
        (request(BootstrapActions=[{"Name": "a"}] * 17), "BootstrapActions has 17 actions, EMR allows 16"),
        (request(AutoTerminationPolicy={"IdleTimeout": 59}), "IdleTimeout is 59, EMR allows 60 to 604800 s"),
        (request(AutoTerminationPolicy={"IdleTimeout": 604_801}), "IdleTimeout is 604801"),
        (tags(*numbered(51)), "Tags has 51 tags, EMR allows 50"),
        (tags(("k" * 129, "")), "has 129 characters, EMR allows 128"),
        (tags(("k", "v" * 257)), "value of tag 'k' has 257 characters, EMR allows 256"),
        (tags(("k", "a"), ("k", "b")), "tag 'k': a key must not be empty or occur twice"),
        (tags(("", "a")), "tag '': a key must not be empty"),
        (tags(("k", "who?")), r"tag 'k' has 'who\?'"),
        (tags(("k", "a\x00b")), "tag 'k' has"),
        (tags(("aws:k", "v")), "do not begin with aws:"),
        (tags(("k", "AWS:v")), "do not begin with aws:"),
        (fleets(31, STRATEGY), "TASK fleet has 31 instance types, EMR allows 30"),
        (fleets(6), "TASK fleet has 6 instance types, EMR allows 5"),
        (
            fleets(1, {"SpotSpecification": {"TimeoutDurationMinutes": 4, **SPOT}}),
            "TimeoutDurationMinutes of the TASK fleet is 4, EMR allows 5 to 1440",
        ),
        (
            fleets(1, {"SpotSpecification": {"TimeoutDurationMinutes": 1441, **SPOT}}),
            "TimeoutDurationMinutes of the TASK fleet is 1441",
        ),
        (fleets(1, Ec2SubnetId="subnet-1"), "fleets take Ec2SubnetIds"),
        (
            request(Instances={"InstanceGroups": [{"InstanceRole": "CORE"}], "Ec2SubnetIds": ["subnet-1"]}),
            "groups take Ec2SubnetId",
        ),
        (
            request(Instances={"InstanceGroups": [{"InstanceRole": "TASK"}] * 49}),
            "InstanceGroups has 49 TASK groups, EMR allows 48",
        ),
        (volume(0), "EBS volume of the CORE group is 0, EMR allows 1 to 1024 GiB"),
        (volume(1025), "EBS volume of the CORE group is 1025"),
    ],
)
def test_what_is_above_a_limit_is_refused_with_field_value_and_source(
    bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobError, match=message) as refused:
        emr_limits.check_job_flow(bad)
    assert "(https://docs.aws.amazon.com/emr/latest/" in str(refused.value)
    assert len(str(refused.value)) < 500


def step(characters: int, name: str = "s") -> dict[str, Any]:
    """A step whose strings have so many characters in all."""
    jar = {"Jar": "j" * 10, "MainClass": "m" * 10, "Properties": [{"Key": "k" * 5, "Value": "v" * 5}]}
    return {"Name": name, "HadoopJarStep": {**jar, "Args": ["a" * 10, "b" * (characters - 40)]}}


def test_steps_may_have_10240_characters_each_and_there_may_be_256() -> None:
    emr_limits.check_steps([step(10_240)] * 256)
    emr_limits.check_steps([step(100, "n" * 256)])
    with pytest.raises(JobError, match="the step 's' has 10241 characters, EMR allows 10240"):
        emr_limits.check_steps([step(10_241)])
    with pytest.raises(JobError, match="Steps has 257 steps, EMR allows 256"):
        emr_limits.check_steps([step(100)] * 257)
    with pytest.raises(JobError, match="has 257 characters, EMR allows 256"):
        emr_limits.check_steps([step(100, "n" * 257)])
    with pytest.raises(JobError, match="has 10241 characters"):
        emr_limits.check_job_flow(request(Steps=[step(10_241)]))
