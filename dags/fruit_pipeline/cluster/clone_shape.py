"""Makes a cluster shape of an existing cluster, as the EMR console clones one.

The cluster may have ended: EMR describes it for two more months.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fruit_pipeline.aws import clusters
from fruit_pipeline.cluster import emr_limits, job_flow, shape_schema, shapes
from image_features.errors import JobError

log = logging.getLogger(__name__)

RELEASE = "emr-7.14.0"
IDLE_SECONDS = 900
EBS_GB = 32
SPOT_MINUTES = 15

_STRATEGIES = ("price-capacity-optimized", "capacity-optimized", "diversified", "lowest-price")
_OUR_TAGS = (clusters.RUN_TAG, clusters.PROJECT_TAG, clusters.OWNER_TAG, clusters.EMR_TAG)

# Fields of DescribeCluster that the deployment's settings decide, and those that a shape does not have.
_OF_THE_DEPLOYMENT = ("LogUri", "ServiceRole", "SecurityConfiguration", "LogEncryptionKmsKeyId")
_OF_THE_NETWORK = (
    *("Ec2KeyName", "Ec2SubnetId", "RequestedEc2SubnetIds", "IamInstanceProfile"),
    "ServiceAccessSecurityGroup",
    *("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup"),
    *("AdditionalMasterSecurityGroups", "AdditionalSlaveSecurityGroups"),
)
_NOT_IN_A_SHAPE = (
    *("CustomAmiId", "RepoUpgradeOnBoot"),
    *("EbsRootVolumeSize", "EbsRootVolumeIops", "EbsRootVolumeThroughput"),
    *("KerberosAttributes", "AutoScalingRole", "PlacementGroups", "OutpostArn", "MonitoringConfiguration"),
    *("TerminationProtected", "UnhealthyNodeReplacement", "SessionEnabled"),
)

# GiB of memory a vCPU, by the first letter of the family's name.
_GIB_A_VCPU = {"c": 2, "m": 4, "r": 8}


@dataclass
class Clone:
    """``values`` is the content of the shape's file; ``left_out`` lists the differences to the cluster."""

    values: dict[str, Any]
    left_out: list[str] = field(default_factory=list)


def clone(emr: Any, cluster_id: str, home: Path, name: str) -> Clone:
    """Make the shape ``name`` of a cluster; ``emr`` is a boto3 client, ``home`` the folder of `emr_configs`.

    Raises JobError when the name exists, or the cluster has what a shape must not have.
    """
    path = shapes.shape_file(home, name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,49}", name):
        raise JobError(f"name {name!r}: small letters, digits, '_' and '-' only, 50 at most")
    if path.exists():
        raise JobError(f"{path} exists; take another --name")
    described = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    cloned = Clone({"$schema": "schema.json"})
    applications = [app["Name"] for app in described.get("Applications", [])]
    label = str(described.get("Name", "")).strip()
    cloned.values["description"] = f"As cluster {cluster_id} ({label})"[:200]
    cloned.values["purpose"] = shapes.NOTEBOOKS if "JupyterHub" in applications else shapes.FEATURES
    cloned.values["release_label"] = _release(described.get("ReleaseLabel", ""), cloned.left_out)
    hardware, workers, volumes = _hardware(emr, described, cloned.left_out)
    types = [name for _, weights in workers for name in weights]
    cloned.values["architecture"] = shape_schema.architecture_of(types[0]) if types else "x86_64"
    if "Spark" not in applications:
        applications.insert(0, "Spark")
        cloned.left_out.append("the cluster has no Spark: added")
    cloned.values["applications"] = list(dict.fromkeys(applications))
    configurations = _configurations(described.get("Configurations", []), home, cloned.left_out)
    spark = configurations.pop("spark-defaults", {}).get("Properties", {})
    cloned.values["worker_cores"] = _size_executors(spark, workers, cloned.left_out)
    cloned.values["idle_timeout_seconds"] = _idle_timeout(emr, cluster_id, cloned.left_out)
    cloned.values["ebs_gb"] = _ebs_gb(volumes, cloned.left_out)
    cloned.values.update(hardware)
    cloned.values["spark_defaults"] = spark
    if configurations:
        cloned.values["classifications"] = list(configurations.values())
    _note_the_rest(emr, described, cloned.left_out)
    shapes.parse_shape(cloned.values, home, path)  # raises where the cluster does not fit the schema
    return cloned


def vcpus(instance_type: str) -> int | None:
    """vCPUs of a type by the name of its size; None for names that do not tell (metal, micro ...)."""
    size = instance_type.partition(".")[2]
    match = re.fullmatch(r"(\d*)xlarge", size)
    return 4 * int(match[1] or 1) if match else {"medium": 1, "large": 2}.get(size)


def _release(label: str, left_out: list[str]) -> str:
    if re.fullmatch(r"emr-7\.\d{1,2}\.\d{1,2}", label):
        return label
    left_out.append(f"release {label or 'unknown'}: replaced by {RELEASE}; nodes need Python 3.11 of EMR 7")
    return RELEASE


Workers = list[tuple[int, dict[str, int]]]
"""Core and task nodes: the capacity to buy in units, and the units that a node of each type provides."""


def _hardware(
    emr: Any, described: Mapping[str, Any], left_out: list[str]
) -> tuple[dict[str, Any], Workers, list[list[Any]]]:
    """Groups or fleets in the form of a shape, the workers, and the EBS devices of each kind of node."""
    if described.get("InstanceCollectionType") == "INSTANCE_FLEET":
        key, operation, convert = "InstanceFleets", "list_instance_fleets", _fleet
    else:
        key, operation, convert = "InstanceGroups", "list_instance_groups", _group
    pages = emr.get_paginator(operation).paginate(ClusterId=described["Id"])
    listed = [item for page in pages for item in page[key]]
    collections: list[dict[str, Any]] = []
    workers: Workers = []
    volumes: list[list[Any]] = []
    for item in listed:
        role = item.get("InstanceGroupType") or item["InstanceFleetType"]
        converted = convert(item, role, f"{role} {item.get('Name', item['Id'])!r}", left_out)
        if converted is None:
            continue
        collections.append(converted)
        kinds = item.get("InstanceTypeSpecifications", [item])
        volumes += [kind.get("EbsBlockDevices", []) for kind in kinds]
        if role != "MASTER":
            workers.append(_units(converted))
    return {"instance_fleets" if convert is _fleet else "instance_groups": collections}, workers, volumes


def _units(nodes: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """The workers of a group or fleet in the form of a shape."""
    if "InstanceCount" in nodes:
        return nodes["InstanceCount"], {nodes["InstanceType"]: 1}
    weights = {config["InstanceType"]: config["WeightedCapacity"] for config in nodes["InstanceTypeConfigs"]}
    return nodes.get("TargetOnDemandCapacity", 0) + nodes.get("TargetSpotCapacity", 0), weights


def _group(item: Mapping[str, Any], role: str, what: str, left_out: list[str]) -> dict[str, Any] | None:
    count, market = item.get("RequestedInstanceCount", 0), item.get("Market", "ON_DEMAND")
    if not count:
        left_out.append(f"{what} has no nodes: left out")
        return None
    if role == "MASTER" and (count, market) != (1, "ON_DEMAND"):
        left_out.append(f"{what} is {count} {market}: replaced by one node on demand, which runs the driver")
        count, market = 1, "ON_DEMAND"
    _note(item, what, ("BidPrice", "AutoScalingPolicy", "Configurations", "CustomAmiId"), left_out)
    return {
        "Name": item.get("Name") or role.lower(),
        "InstanceRole": role,
        "InstanceType": item["InstanceType"],
        "InstanceCount": count,
        "Market": market,
    }


def _fleet(item: Mapping[str, Any], role: str, what: str, left_out: list[str]) -> dict[str, Any] | None:
    on_demand, spot = item.get("TargetOnDemandCapacity", 0), item.get("TargetSpotCapacity", 0)
    if not on_demand and not spot:
        left_out.append(f"{what} has no nodes: left out")
        return None
    if role == "MASTER" and (on_demand, spot) != (1, 0):
        left_out.append(
            f"{what} is {on_demand} on demand and {spot} Spot: replaced by one node on demand, which runs "
            "the driver"
        )
        on_demand, spot = 1, 0
    targets = {"TargetOnDemandCapacity": on_demand, "TargetSpotCapacity": spot}
    fleet: dict[str, Any] = {"Name": item.get("Name") or role.lower(), "InstanceFleetType": role}
    fleet.update({name: target for name, target in targets.items() if target})
    fleet["InstanceTypeConfigs"] = [
        _fleet_type(config, role, what, left_out) for config in item["InstanceTypeSpecifications"]
    ]
    launch = _launch(item.get("LaunchSpecifications", {}), fleet, what, left_out)
    if launch:
        fleet["LaunchSpecifications"] = launch
    return fleet


def _fleet_type(config: Mapping[str, Any], role: str, what: str, left_out: list[str]) -> dict[str, Any]:
    name = config["InstanceType"]
    _note(config, f"{what}, {name}", ("BidPrice", "Configurations", "CustomAmiId", "Priority"), left_out)
    weight = 1 if role == "MASTER" else config.get("WeightedCapacity", 1)
    converted = {"InstanceType": name, "WeightedCapacity": weight}
    share = config.get("BidPriceAsPercentageOfOnDemandPrice")
    if share and share != 100:  # EMR's own default
        converted["BidPriceAsPercentageOfOnDemandPrice"] = share
    return converted


def _launch(
    launch: Mapping[str, Any], fleet: Mapping[str, Any], what: str, left_out: list[str]
) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    if "TargetSpotCapacity" in fleet:
        spot = launch.get("SpotSpecification", {})
        _note(spot, what, ("BlockDurationMinutes",), left_out)
        strategy = spot.get("AllocationStrategy")
        if strategy not in _STRATEGIES:
            left_out.append(f"{what}: allocation strategy {strategy} replaced by {_STRATEGIES[0]}")
            strategy = _STRATEGIES[0]
        converted["SpotSpecification"] = {
            "TimeoutDurationMinutes": spot.get("TimeoutDurationMinutes", SPOT_MINUTES),
            "TimeoutAction": spot.get("TimeoutAction", "SWITCH_TO_ON_DEMAND"),
            "AllocationStrategy": strategy,
        }
    on_demand = launch.get("OnDemandSpecification", {})
    _note(on_demand, what, ("CapacityReservationOptions",), left_out)
    strategy = on_demand.get("AllocationStrategy")
    if strategy and strategy != "lowest-price":
        left_out.append(f"{what}: allocation strategy {strategy} on demand replaced by lowest-price")
    many = len(fleet["InstanceTypeConfigs"]) > emr_limits.MAX_FLEET_TYPES_WITHOUT_STRATEGY
    if strategy or (many and not converted):
        converted["OnDemandSpecification"] = {"AllocationStrategy": "lowest-price"}
    return converted


def _configurations(
    listed: Sequence[Mapping[str, Any]], home: Path, left_out: list[str]
) -> dict[str, dict[str, Any]]:
    """The cluster's classifications by name, without the properties that `classifications.json` sets."""
    shared = json.loads((home / "emr_configs" / "classifications.json").read_text())
    return {item["Classification"]: item for item in _without(listed, shared, left_out)}


def _without(
    listed: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]], left_out: list[str]
) -> list[dict[str, Any]]:
    own: list[dict[str, Any]] = []
    shared_by_name = {item["Classification"]: item for item in shared}
    for item in listed:
        name = item["Classification"]
        base = shared_by_name.get(name, {})
        shared_properties = base.get("Properties", {})
        properties: dict[str, str] = {}
        for key, value in item.get("Properties", {}).items():
            # Dynamic allocation is the one shared setting that a shape may change.
            if key not in shared_properties or (key, value) == ("spark.dynamicAllocation.enabled", "true"):
                properties[key] = value
            elif value != shared_properties[key] and not re.search(r"\{[a-z]+\}", shared_properties[key]):
                left_out.append(f"{name}: {key}={value} replaced by {shared_properties[key]}")
        inner = _without(item.get("Configurations", []), base.get("Configurations", []), left_out)
        converted: dict[str, Any] = {"Classification": name}
        if properties:
            converted["Properties"] = properties
        if inner:
            converted["Configurations"] = inner
        if len(converted) > 1:
            own.append(converted)
    return own


def _size_executors(spark: dict[str, str], workers: Workers, left_out: list[str]) -> int:
    """Return the cores that run tasks; set number and size of executors in ``spark`` where it has none.

    There is one executor for each node of the smallest type. EMR gives YARN about three quarters of a
    node's memory. One GiB of that is for Spark's application master, most of the rest for the Python workers.
    """
    sizes = {name: vcpus(name) for _, weights in workers for name in weights}
    for name, count in sizes.items():
        if count is None:
            left_out.append(f"vCPUs of {name} are unknown: 4 assumed, check spark_defaults")
    cores = {name: count or 4 for name, count in sizes.items()}
    smallest = min(cores, key=lambda name: cores[name], default="m5.xlarge")
    dynamic = spark.get("spark.dynamicAllocation.enabled") == "true"
    own_cores = spark.get("spark.executor.cores", "")
    each = int(own_cores) if own_cores.isdecimal() and int(own_cores) else cores.get(smallest, 4)
    total = sum(
        units * min(cores[name] / weight for name, weight in weights.items()) for units, weights in workers
    )
    executors = spark.get("spark.executor.instances", "")
    if not executors.isdecimal() or not int(executors):
        executors = str(max(1, int(total) // each))
    spark["spark.executor.cores"] = str(each)
    if dynamic:
        spark.pop("spark.executor.instances", None)
        return max(1, int(total))
    spark["spark.executor.instances"] = executors
    if "spark.executor.memory" not in spark:
        letter = smallest[0]
        if letter not in _GIB_A_VCPU:
            left_out.append(f"memory of {smallest} is unknown: 4 GiB a vCPU assumed, check spark_defaults")
        usable = int(0.75 * 1024 * _GIB_A_VCPU.get(letter, 4) * each) - 1024
        heap = min(4096, max(512, usable // 5 // 512 * 512))
        spark["spark.executor.memory"] = f"{heap}m"
        spark["spark.executor.memoryOverhead"] = f"{max(512, usable - heap)}m"
        left_out.append(
            f"EMR sized the executors: set to {heap} MiB of heap and {usable - heap} MiB of overhead"
        )
    return int(executors) * each


def _idle_timeout(emr: Any, cluster_id: str, left_out: list[str]) -> int:
    policy = emr.get_auto_termination_policy(ClusterId=cluster_id).get("AutoTerminationPolicy", {})
    if "IdleTimeout" in policy:
        return int(policy["IdleTimeout"])
    left_out.append(f"the cluster has no idle timeout: idle_timeout_seconds set to {IDLE_SECONDS}")
    return IDLE_SECONDS


def _ebs_gb(volumes: Sequence[Sequence[Mapping[str, Any]]], left_out: list[str]) -> int:
    """One size in GiB for all nodes: the largest total of a node."""
    specifications = [[device["VolumeSpecification"] for device in devices] for devices in volumes]
    sizes = [sum(volume["SizeInGB"] for volume in node) for node in specifications]
    if not any(sizes):
        left_out.append(f"the nodes have no EBS volumes: set to one of {EBS_GB} GiB gp3 a node")
        return EBS_GB
    size = min(1024, max(10, *sizes))
    same = all(len(node) == 1 and node[0]["VolumeType"] == "gp3" for node in specifications)
    if not same or set(sizes) != {size}:
        left_out.append(
            f"the nodes' EBS volumes differ, or are not gp3: replaced by one of {size} GiB gp3 a node"
        )
    if any("Iops" in volume or "Throughput" in volume for node in specifications for volume in node):
        left_out.append("IOPS and throughput of the EBS volumes: replaced by the defaults of gp3")
    return size


def _note_the_rest(emr: Any, described: Mapping[str, Any], left_out: list[str]) -> None:
    """Note what the cluster has in addition to its shape."""
    network = described.get("Ec2InstanceAttributes", {})
    settings = [name for name in _OF_THE_DEPLOYMENT if described.get(name)]
    settings += [name for name in _OF_THE_NETWORK if network.get(name)]
    if settings:
        left_out.append(f"decided by the deployment's settings: {', '.join(settings)}")
    _note(described, "the cluster", _NOT_IN_A_SHAPE, left_out)
    if described.get("StepConcurrencyLevel", 1) > 1:
        left_out.append(f"StepConcurrencyLevel {described['StepConcurrencyLevel']}: steps run one by one")
    tags = [tag["Key"] for tag in described.get("Tags", []) if tag["Key"] not in _OUR_TAGS]
    if tags:
        left_out.append(f"tags: {', '.join(tags)}")
    if emr.get_managed_scaling_policy(ClusterId=described["Id"]).get("ManagedScalingPolicy"):
        left_out.append("managed scaling: the number of nodes is fixed")
    pages = emr.get_paginator("list_bootstrap_actions").paginate(ClusterId=described["Id"])
    actions = [action["Name"] for page in pages for action in page["BootstrapActions"]]
    if others := [name for name in actions if name != job_flow.BOOTSTRAP]:
        left_out.append(f"bootstrap actions: {', '.join(others)}")


def _note(described: Mapping[str, Any], what: str, names: Sequence[str], left_out: list[str]) -> None:
    left_out += [f"{what}: {name}" for name in names if described.get(name)]
