"""Clusters and steps from requests, which are checked as EMR checks them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from moto.emr.exceptions import InvalidRequestException, ValidationException

from local_emr.emr.api_values import new_id
from local_emr.emr.cluster import STEP_ENDED, Cluster, Step
from local_emr.emr.instances import ROLES, InstanceCollection

ACTIONS = ("TERMINATE_JOB_FLOW", "TERMINATE_CLUSTER", "CANCEL_AND_WAIT", "CONTINUE")
MAX_ACTIVE_STEPS = 256
MAX_STEP_CHARACTERS = 10_240
MAX_CONCURRENCY = 256
IDLE_SECONDS = (60, 604_800)
DEFAULT_IDLE_SECONDS = 3600
MAX_BOOTSTRAP_ACTIONS = 16
MAX_NAME = 256
NOT_IN_NAMES = re.compile(r"[<>$|`]")
MAX_TAGS = 50
TAG_KEY = re.compile(r"(?!aws:)[\w\s.:/=+\-@]{1,128}", re.IGNORECASE)
TAG_VALUE = re.compile(r"(?!aws:)[\w\s.:/=+\-@]{0,256}", re.IGNORECASE)
MAX_FLEET_TYPES = 30
MAX_FLEET_TYPES_WITHOUT_STRATEGY = 5
SPOT_MINUTES = (5, 1440)


def cluster_from(request: dict[str, Any], region: str, account: str) -> Cluster:
    """A new cluster from a RunJobFlow request.

    Raises ValidationException or InvalidRequestException for a request that EMR refuses.
    """
    if not request.get("Name"):
        raise ValidationException("The job flow name is required.")
    if request.get("ReleaseLabel") and request.get("AmiVersion"):
        raise ValidationException(
            "Only one AMI version and release label may be specified. "
            f"Provided AMI: {request['AmiVersion']}, release label: {request['ReleaseLabel']}."
        )
    if len(request["Name"]) > MAX_NAME or NOT_IN_NAMES.search(request["Name"]):
        raise ValidationException(f"The job flow name has over {MAX_NAME} characters, or one of <>$|`.")
    _check_tags(request.get("Tags") or [])
    instances = request.setdefault("Instances", {})
    _check_instances(instances)
    if len(request.get("BootstrapActions") or []) > MAX_BOOTSTRAP_ACTIONS:
        raise ValidationException(f"At most {MAX_BOOTSTRAP_ACTIONS} bootstrap actions are allowed.")
    for action in request.get("BootstrapActions") or []:
        if not (action.get("ScriptBootstrapAction") or {}).get("Path"):
            raise ValidationException("A bootstrap action needs a script path.")
    concurrency = request.get("StepConcurrencyLevel") or 1
    check_concurrency(concurrency)
    steps = request.pop("Steps", None) or []
    cluster = Cluster(
        id=new_id("j-"),
        region=region,
        account=account,
        request=request,
        collection=InstanceCollection.from_request(instances),
        keep_alive=bool(instances.get("KeepJobFlowAliveWhenNoSteps")),
        protected=bool(instances.get("TerminationProtected")),
        concurrency=concurrency,
        idle_timeout=idle_timeout(request.get("AutoTerminationPolicy")),
        scaling_policy=scaling_policy(request.get("ManagedScalingPolicy")),
        tags={tag["Key"]: tag.get("Value", "") for tag in request.get("Tags") or []},
    )
    cluster.steps = steps_from(steps, cluster)
    return cluster


def _check_tags(tags: list[dict[str, Any]]) -> None:
    keys = {tag.get("Key") for tag in tags}
    if len(tags) > MAX_TAGS or len(keys) < len(tags):
        raise ValidationException(f"At most {MAX_TAGS} tags are allowed, each key once.")
    for tag in tags:
        if not TAG_KEY.fullmatch(tag.get("Key") or "") or not TAG_VALUE.fullmatch(tag.get("Value") or ""):
            raise ValidationException(f"The tag {tag} is not valid.")


def _check_instances(instances: dict[str, Any]) -> None:
    groups, fleets = instances.get("InstanceGroups"), instances.get("InstanceFleets")
    if groups and fleets:
        raise ValidationException("Instance fleets and instance groups are mutually exclusive.")
    if (groups or fleets) and (instances.get("MasterInstanceType") or instances.get("InstanceCount")):
        raise ValidationException(
            "Please configure instances using one and only one of the following: instance groups; "
            "instance fleets; or master instance type, slave instance type and instance count."
        )
    if not groups and not fleets and not instances.get("MasterInstanceType"):
        raise ValidationException(
            "The master instance type is required: give instance groups, fleets or a type."
        )
    roles = [item.get("InstanceRole") for item in groups or []] + [
        item.get("InstanceFleetType") for item in fleets or []
    ]
    if roles and roles.count("MASTER") != 1:
        raise ValidationException("Exactly one master instance group or fleet is required.")
    if roles.count("CORE") > 1 or any(role not in ROLES for role in roles):
        raise ValidationException(
            "At most one core instance group or fleet is allowed, and no role but MASTER, CORE, TASK."
        )
    if fleets and roles.count("TASK") > 1:
        raise ValidationException("At most one task instance fleet is allowed.")
    if (fleets and instances.get("Ec2SubnetId")) or (groups and instances.get("Ec2SubnetIds")):
        raise ValidationException("Instance groups take Ec2SubnetId, instance fleets take Ec2SubnetIds.")
    for group in groups or []:
        if not group.get("InstanceType") or not group.get("InstanceCount"):
            raise ValidationException("An instance group needs an instance type and an instance count.")
    for fleet in fleets or []:
        _check_fleet(fleet)


def _check_fleet(fleet: dict[str, Any]) -> None:
    types = [config.get("InstanceType") for config in fleet.get("InstanceTypeConfigs") or []]
    if not types or len(set(types)) < len(types):
        raise ValidationException("An instance fleet needs at least one instance type, and each type once.")
    launch = fleet.get("LaunchSpecifications") or {}
    strategy = any(specification.get("AllocationStrategy") for specification in launch.values())
    limit = MAX_FLEET_TYPES if strategy else MAX_FLEET_TYPES_WITHOUT_STRATEGY
    if len(types) > limit:
        raise ValidationException(
            f"An instance fleet takes {MAX_FLEET_TYPES} instance types with an allocation strategy, "
            f"{MAX_FLEET_TYPES_WITHOUT_STRATEGY} without, not {len(types)}."
        )
    on_demand, spot = fleet.get("TargetOnDemandCapacity") or 0, fleet.get("TargetSpotCapacity") or 0
    if not on_demand and not spot:
        raise ValidationException(
            "At least one of target On-Demand and target Spot capacity must be greater than 0."
        )
    if fleet.get("InstanceFleetType") == "MASTER" and on_demand + spot != 1:
        raise ValidationException("The target capacity of the master instance fleet must be 1.")
    low, high = SPOT_MINUTES
    minutes = (launch.get("SpotSpecification") or {}).get("TimeoutDurationMinutes", low)
    if not low <= minutes <= high:
        raise ValidationException(f"TimeoutDurationMinutes must be between {low} and {high}, not {minutes}.")


def steps_from(configs: Iterable[dict[str, Any]], cluster: Cluster) -> list[Step]:
    """New steps for ``cluster``. Raises ValidationException."""
    steps = [_step(config, cluster.concurrency) for config in configs]
    active = sum(step.state not in STEP_ENDED for step in cluster.steps)
    if active + len(steps) > MAX_ACTIVE_STEPS:
        raise ValidationException(
            "Maximum number of active steps(State = 'Running', 'Pending' or 'Cancel_Pending') "
            "for cluster exceeded."
        )
    return steps


def _step(config: dict[str, Any], concurrency: int) -> Step:
    jar = config.get("HadoopJarStep") or {}
    action = config.get("ActionOnFailure") or "TERMINATE_CLUSTER"
    if action not in ACTIONS:
        raise ValidationException(f"Invalid action on failure: {action}.")
    if concurrency > 1 and action != "CONTINUE":
        raise ValidationException(
            f"ActionOnFailure setting {action} is not valid: StepConcurrencyLevel is greater than 1."
        )
    if not jar.get("Jar"):
        raise ValidationException("A step needs a jar.")
    args = jar.get("Args") or []
    if len(jar["Jar"]) + sum(map(len, args)) > MAX_STEP_CHARACTERS:
        raise ValidationException(
            f"The total length of a step's strings must not exceed {MAX_STEP_CHARACTERS} characters."
        )
    return Step(
        id=new_id("s-"),
        name=config.get("Name", ""),
        action_on_failure=action,
        jar=jar["Jar"],
        args=args,
        main_class=jar.get("MainClass"),
        properties={item["Key"]: item.get("Value", "") for item in jar.get("Properties") or []},
    )


def check_concurrency(level: int) -> None:
    if not 1 <= level <= MAX_CONCURRENCY:
        raise InvalidRequestException(f"Step concurrency level must be between 1 and {MAX_CONCURRENCY}.")


def idle_timeout(policy: dict[str, Any] | None) -> int | None:
    """Seconds of an AutoTerminationPolicy, None without one. Raises ValidationException."""
    if policy is None:
        return None
    seconds = int(policy.get("IdleTimeout") or DEFAULT_IDLE_SECONDS)
    low, high = IDLE_SECONDS
    if not low <= seconds <= high:
        raise ValidationException(f"The IdleTimeout must be between {low} and {high} seconds, not {seconds}.")
    return seconds


def scaling_policy(policy: dict[str, Any] | None) -> dict[str, Any] | None:
    """``policy`` itself. Raises ValidationException when its limits are not valid."""
    if policy is None:
        return None
    limits = policy.get("ComputeLimits") or {}
    low, high = limits.get("MinimumCapacityUnits"), limits.get("MaximumCapacityUnits")
    if limits.get("UnitType") not in ("InstanceFleetUnits", "Instances", "VCPU"):
        raise ValidationException("UnitType must be one of InstanceFleetUnits, Instances, VCPU.")
    if low is None or high is None or not 1 <= low <= high:
        raise ValidationException(
            "MinimumCapacityUnits must be at least 1 and not above MaximumCapacityUnits."
        )
    return policy
