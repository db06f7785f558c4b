"""Checks requests as EMR does, and makes records of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from moto.emr.exceptions import InvalidRequestException, ValidationException

from local_emr.emr.instances import ROLES, Collection, new_id
from local_emr.emr.records import STEP_ENDED, Cluster, Step

ACTIONS = ("TERMINATE_JOB_FLOW", "TERMINATE_CLUSTER", "CANCEL_AND_WAIT", "CONTINUE")
MAX_ACTIVE_STEPS = 256
MAX_STEP_CHARACTERS = 10_240
MAX_CONCURRENCY = 256
IDLE_SECONDS = (60, 604_800)
DEFAULT_IDLE_SECONDS = 3600


def cluster_from(request: dict[str, Any], region: str, account: str) -> Cluster:
    """A new cluster from a RunJobFlow request.

    Raises ValidationException or InvalidRequestException with what EMR objects to.
    """
    if not request.get("Name"):
        raise ValidationException("The job flow name is required.")
    if request.get("ReleaseLabel") and request.get("AmiVersion"):
        raise ValidationException(
            "Only one AMI version and release label may be specified. "
            f"Provided AMI: {request['AmiVersion']}, release label: {request['ReleaseLabel']}."
        )
    instances = request.setdefault("Instances", {})
    _check_instances(instances)
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
        collection=Collection.of(instances),
        keep_alive=bool(instances.get("KeepJobFlowAliveWhenNoSteps")),
        protected=bool(instances.get("TerminationProtected")),
        visible=bool(request.get("VisibleToAllUsers", True)),
        concurrency=concurrency,
        idle_timeout=idle_timeout(request.get("AutoTerminationPolicy")),
        scaling_policy=scaling_policy(request.get("ManagedScalingPolicy")),
        tags={tag["Key"]: tag.get("Value", "") for tag in request.get("Tags") or []},
    )
    cluster.steps = steps_from(steps, cluster)
    return cluster


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
    for group in groups or []:
        if not group.get("InstanceType") or not group.get("InstanceCount"):
            raise ValidationException("An instance group needs an instance type and an instance count.")
    for fleet in fleets or []:
        if not fleet.get("InstanceTypeConfigs"):
            raise ValidationException("An instance fleet needs at least one instance type.")
        if not fleet.get("TargetOnDemandCapacity") and not fleet.get("TargetSpotCapacity"):
            raise ValidationException(
                "At least one of target On-Demand and target Spot capacity must be greater than 0."
            )


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
    """The policy when its limits make sense. Raises ValidationException."""
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
