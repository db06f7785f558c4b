"""EMR's documented limits that boto3 does not check. A request is checked before it is sent.

EMR would refuse such a request too, but later, and often without the name of the field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from image_features.errors import JobError

_API = "https://docs.aws.amazon.com/emr/latest/APIReference"
_GUIDE = "https://docs.aws.amazon.com/emr/latest/ManagementGuide"

# API_RunJobFlow, API_Cluster: XmlStringMaxLen256, and the characters that a name must not contain.
MAX_NAME = 256
_NOT_IN_NAMES = re.compile(r"[<>$|`]")

# emr-plan-tags-restrictions, and the restrictions of EC2 that it refers to.
MAX_TAGS = 50
MAX_TAG_KEY = 128
MAX_TAG_VALUE = 256
_TAG_CHARACTERS = re.compile(r"[\w\s.:/=+\-@]*")

# emr-plan-bootstrap
MAX_BOOTSTRAP_ACTIONS = 16

# API_AutoTerminationPolicy: seconds
IDLE_SECONDS = (60, 604_800)

# API_InstanceTypeConfig
MAX_FLEET_TYPES = 30
MAX_FLEET_TYPES_WITHOUT_STRATEGY = 5

# API_SpotProvisioningSpecification: minutes
SPOT_MINUTES = (5, 1440)

# emr-instance-group-configuration: one primary, one core, 48 task groups
MAX_TASK_GROUPS = 48

# API_VolumeSpecification: GiB
VOLUME_GB = (1, 1024)

# API_AddJobFlowSteps
MAX_STEPS = 256
MAX_STEP_CHARACTERS = 10_240


def check_job_flow(request: Mapping[str, Any]) -> None:
    """Check a ``RunJobFlow`` request. Raises JobError with field, value, limit and source."""
    name = request["Name"]
    _at_most(f"cluster name {name!r}", len(name), MAX_NAME, "characters", f"{_API}/API_RunJobFlow.html")
    if _NOT_IN_NAMES.search(name):
        raise JobError(
            f"cluster name {name!r} contains one of <>$|`, which EMR refuses ({_API}/API_Cluster.html)"
        )
    _check_tags(request.get("Tags", []))
    actions = request.get("BootstrapActions", [])
    _at_most(
        "BootstrapActions",
        len(actions),
        MAX_BOOTSTRAP_ACTIONS,
        "actions",
        f"{_GUIDE}/emr-plan-bootstrap.html",
    )
    policy = request.get("AutoTerminationPolicy")
    if policy:
        source = f"{_API}/API_AutoTerminationPolicy.html"
        _between("AutoTerminationPolicy.IdleTimeout", policy["IdleTimeout"], IDLE_SECONDS, "seconds", source)
    instances = request["Instances"]
    groups, fleets = instances.get("InstanceGroups", []), instances.get("InstanceFleets", [])
    task_groups = sum(group["InstanceRole"] == "TASK" for group in groups)
    source = f"{_GUIDE}/emr-instance-group-configuration.html"
    _at_most("InstanceGroups", task_groups, MAX_TASK_GROUPS, "TASK groups", source)
    for group in groups:
        _check_volumes(f"{group['InstanceRole']} group", group)
    for fleet in fleets:
        _check_fleet(fleet)
    if fleets and "Ec2SubnetId" in instances:
        raise JobError(
            f"Ec2SubnetId is for instance groups, fleets take Ec2SubnetIds ({_API}/API_RunJobFlow.html)"
        )
    if groups and "Ec2SubnetIds" in instances:
        raise JobError(
            f"Ec2SubnetIds is for instance fleets, groups take Ec2SubnetId ({_API}/API_RunJobFlow.html)"
        )
    check_steps(request.get("Steps", []))


def check_steps(steps: Iterable[Mapping[str, Any]]) -> None:
    """Check the ``Steps`` of an ``AddJobFlowSteps`` request. Raises JobError as ``check_job_flow`` does."""
    steps = list(steps)
    source = f"{_API}/API_AddJobFlowSteps.html"
    _at_most("Steps", len(steps), MAX_STEPS, "steps", source)
    for step in steps:
        name, jar = step["Name"], step["HadoopJarStep"]
        _at_most(f"step name {name!r}", len(name), MAX_NAME, "characters", source)
        words = [jar["Jar"], jar.get("MainClass", ""), *jar.get("Args", [])]
        words += [word for item in jar.get("Properties", []) for word in item.values()]
        _at_most(f"the step {name!r}", sum(map(len, words)), MAX_STEP_CHARACTERS, "characters", source)


def _check_tags(tags: list[Mapping[str, str]]) -> None:
    source = f"{_GUIDE}/emr-plan-tags-restrictions.html"
    _at_most("Tags", len(tags), MAX_TAGS, "tags", source)
    keys = [tag["Key"] for tag in tags]
    for tag in tags:
        key, value = tag["Key"], tag.get("Value", "")
        if not key or keys.count(key) > 1:
            raise JobError(f"tag {key!r}: a key must not be empty or occur twice ({source})")
        _at_most(f"key of tag {key!r}", len(key), MAX_TAG_KEY, "characters", source)
        _at_most(f"value of tag {key!r}", len(value), MAX_TAG_VALUE, "characters", source)
        for text in (key, value):
            if not _TAG_CHARACTERS.fullmatch(text) or text.lower().startswith("aws:"):
                raise JobError(
                    f"tag {key!r} has {text!r}; tags consist of letters, digits, spaces and _.:/=+-@, "
                    f"and do not begin with aws: ({source})"
                )


def _check_fleet(fleet: Mapping[str, Any]) -> None:
    name, launch = f"{fleet['InstanceFleetType']} fleet", fleet.get("LaunchSpecifications", {})
    types = [config["InstanceType"] for config in fleet["InstanceTypeConfigs"]]
    strategies = (specification.get("AllocationStrategy") for specification in launch.values())
    most = MAX_FLEET_TYPES if any(strategies) else MAX_FLEET_TYPES_WITHOUT_STRATEGY
    _at_most(name, len(types), most, "instance types", f"{_API}/API_InstanceTypeConfig.html")
    spot = launch.get("SpotSpecification")
    if spot:
        source = f"{_API}/API_SpotProvisioningSpecification.html"
        minutes = spot["TimeoutDurationMinutes"]
        _between(f"TimeoutDurationMinutes of the {name}", minutes, SPOT_MINUTES, "minutes", source)
    for config in fleet["InstanceTypeConfigs"]:
        _check_volumes(f"{name}, {config['InstanceType']}", config)


def _check_volumes(name: str, nodes: Mapping[str, Any]) -> None:
    for device in nodes.get("EbsConfiguration", {}).get("EbsBlockDeviceConfigs", []):
        size = device["VolumeSpecification"]["SizeInGB"]
        _between(f"EBS volume of the {name}", size, VOLUME_GB, "GiB", f"{_API}/API_VolumeSpecification.html")


def _at_most(what: str, value: int, most: int, unit: str, source: str) -> None:
    if value > most:
        raise JobError(f"{_short(what)} has {value} {unit}, EMR allows {most} ({source})")


def _between(what: str, value: int, limits: tuple[int, int], unit: str, source: str) -> None:
    low, high = limits
    if not low <= value <= high:
        raise JobError(f"{what} is {value}, EMR allows {low} to {high} {unit} ({source})")


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."
