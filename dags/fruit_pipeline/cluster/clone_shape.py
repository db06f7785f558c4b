"""A cluster shape made out of a cluster that exists, as one clones a cluster in the console.

prints the shape and says on stderr what it leaves out; with --write it becomes `emr_configs/mine.json`.
The cluster may have ended: EMR describes it for two months more.
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

# Of DescribeCluster: what the deployment's settings decide, and what no shape says.
_OF_THE_DEPLOYMENT = ("LogUri", "ServiceRole", "SecurityConfiguration", "LogEncryptionKmsKeyId")
_OF_THE_NETWORK = (
    *(
        "Ec2KeyName",
        "Ec2SubnetId",
        "RequestedEc2SubnetIds",
        "IamInstanceProfile",
        "ServiceAccessSecurityGroup",
    ),
    *("EmrManagedMasterSecurityGroup", "EmrManagedSlaveSecurityGroup"),
    *("AdditionalMasterSecurityGroups", "AdditionalSlaveSecurityGroups"),
)
_NOT_IN_A_SHAPE = (
    *(
        "CustomAmiId",
        "RepoUpgradeOnBoot",
        "EbsRootVolumeSize",
        "EbsRootVolumeIops",
        "EbsRootVolumeThroughput",
    ),
    *("KerberosAttributes", "AutoScalingRole", "PlacementGroups", "OutpostArn", "MonitoringConfiguration"),
    *("TerminationProtected", "UnhealthyNodeReplacement", "SessionEnabled"),
)

# GiB of memory a vCPU, by the letter that a family's name begins with.
_GIB_A_VCPU = {"c": 2, "m": 4, "r": 8}


@dataclass
class Clone:
    """``values`` is what the shape's file holds; ``left_out`` says in words what it does not."""

    values: dict[str, Any]
    left_out: list[str] = field(default_factory=list)


def clone(emr: Any, cluster_id: str, home: Path, name: str) -> Clone:
    """The shape ``name`` out of a cluster; ``emr`` is a client of EMR, ``home`` holds `emr_configs`.

    Raises JobError when the name is taken, or the cluster has what no shape may have.
    """
    path = shapes.shape_file(home, name)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,49}", name):
        raise JobError(f"name {name!r}: small letters, digits, '_' and '-' only, 50 at most")
    if path.exists():
        raise JobError(f"{path} exists; take another --name")
    described = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    made = Clone({"$schema": "schema.json"})
    applications = [app["Name"] for app in described.get("Applications", [])]
    label = str(described.get("Name", "")).strip()
    made.values["description"] = f"As cluster {cluster_id} ({label})"[:200]
    made.values["purpose"] = shapes.NOTEBOOKS if "JupyterHub" in applications else shapes.FEATURES
    made.values["release_label"] = _release(described.get("ReleaseLabel", ""), made.left_out)
    hardware, workers, volumes = _hardware(emr, described, made.left_out)
    types = [name for _, weights in workers for name in weights]
    made.values["architecture"] = shape_schema.architecture_of(types[0]) if types else "x86_64"
    if "Spark" not in applications:
        applications.insert(0, "Spark")
        made.left_out.append("the cluster has no Spark: added")
    made.values["applications"] = list(dict.fromkeys(applications))
    configurations = _configurations(described.get("Configurations", []), home, made.left_out)
    spark = configurations.pop("spark-defaults", {}).get("Properties", {})
    made.values["worker_cores"] = _size_executors(spark, workers, made.left_out)
    made.values["idle_timeout_seconds"] = _idle_timeout(emr, cluster_id, made.left_out)
    made.values["ebs_gb"] = _ebs_gb(volumes, made.left_out)
    made.values.update(hardware)
    made.values["spark_defaults"] = spark
    if configurations:
        made.values["classifications"] = list(configurations.values())
    _note_the_rest(emr, described, made.left_out)
    shapes.parse_shape(made.values, home, path)  # raises when the cluster makes no shape
    return made


def vcpus(instance_type: str) -> int | None:
    """vCPUs of a type by the name of its size, None where the name does not say (metal, micro ...)."""
    size = instance_type.partition(".")[2]
    match = re.fullmatch(r"(\d*)xlarge", size)
    return 4 * int(match[1] or 1) if match else {"medium": 1, "large": 2}.get(size)


def _release(label: str, left_out: list[str]) -> str:
    if re.fullmatch(r"emr-7\.\d{1,2}\.\d{1,2}", label):
        return label
    left_out.append(f"release {label or 'unknown'}: the nodes need Python 3.11 of EMR 7, {RELEASE} taken")
    return RELEASE


Workers = list[tuple[int, dict[str, int]]]
"""Of core and task nodes: units wanted, and the units that each type counts."""


def _hardware(
    emr: Any, described: Mapping[str, Any], left_out: list[str]
) -> tuple[dict[str, Any], Workers, list[list[Any]]]:
    """Groups or fleets as a shape has them, its workers, and the EBS devices of each kind of node."""
    if described.get("InstanceCollectionType") == "INSTANCE_FLEET":
        key, operation, convert = "InstanceFleets", "list_instance_fleets", _fleet
    else:
        key, operation, convert = "InstanceGroups", "list_instance_groups", _group
    pages = emr.get_paginator(operation).paginate(ClusterId=described["Id"])
    listed = [item for page in pages for item in page[key]]
    made: list[dict[str, Any]] = []
    workers: Workers = []
    volumes: list[list[Any]] = []
    for item in listed:
        role = item.get("InstanceGroupType") or item["InstanceFleetType"]
        converted = convert(item, role, f"{role} {item.get('Name', item['Id'])!r}", left_out)
        if converted is None:
            continue
        made.append(converted)
        kinds = item.get("InstanceTypeSpecifications", [item])
        volumes += [kind.get("EbsBlockDevices", []) for kind in kinds]
        if role != "MASTER":
            workers.append(_units(converted))
    return {"instance_fleets" if convert is _fleet else "instance_groups": made}, workers, volumes


def _units(made: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    if "InstanceCount" in made:
        return made["InstanceCount"], {made["InstanceType"]: 1}
    weights = {config["InstanceType"]: config["WeightedCapacity"] for config in made["InstanceTypeConfigs"]}
    return made.get("TargetOnDemandCapacity", 0) + made.get("TargetSpotCapacity", 0), weights


def _group(item: Mapping[str, Any], role: str, what: str, left_out: list[str]) -> dict[str, Any] | None:
    count, market = item.get("RequestedInstanceCount", 0), item.get("Market", "ON_DEMAND")
    if not count:
        left_out.append(f"{what} has no nodes: left out")
        return None
    if role == "MASTER" and (count, market) != (1, "ON_DEMAND"):
        left_out.append(f"{what} is {count} {market}: one node on demand taken, the driver runs there")
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
        left_out.append(f"{what} is Spot: one node on demand taken, the driver runs there")
        on_demand, spot = 1, 0
    targets = {"TargetOnDemandCapacity": on_demand, "TargetSpotCapacity": spot}
    made: dict[str, Any] = {"Name": item.get("Name") or role.lower(), "InstanceFleetType": role}
    made.update({name: target for name, target in targets.items() if target})
    made["InstanceTypeConfigs"] = [
        _fleet_type(config, role, what, left_out) for config in item["InstanceTypeSpecifications"]
    ]
    launch = _launch(item.get("LaunchSpecifications", {}), made, what, left_out)
    if launch:
        made["LaunchSpecifications"] = launch
    return made


def _fleet_type(config: Mapping[str, Any], role: str, what: str, left_out: list[str]) -> dict[str, Any]:
    name = config["InstanceType"]
    _note(config, f"{what}, {name}", ("BidPrice", "Configurations", "CustomAmiId", "Priority"), left_out)
    weight = 1 if role == "MASTER" else config.get("WeightedCapacity", 1)
    made = {"InstanceType": name, "WeightedCapacity": weight}
    share = config.get("BidPriceAsPercentageOfOnDemandPrice")
    if share and share != 100:  # EMR's own default
        made["BidPriceAsPercentageOfOnDemandPrice"] = share
    return made


def _launch(
    launch: Mapping[str, Any], made: Mapping[str, Any], what: str, left_out: list[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if "TargetSpotCapacity" in made:
        spot = launch.get("SpotSpecification", {})
        _note(spot, what, ("BlockDurationMinutes",), left_out)
        strategy = spot.get("AllocationStrategy")
        if strategy not in _STRATEGIES:
            left_out.append(f"{what}: allocation strategy {strategy}, {_STRATEGIES[0]} taken")
            strategy = _STRATEGIES[0]
        found["SpotSpecification"] = {
            "TimeoutDurationMinutes": spot.get("TimeoutDurationMinutes", SPOT_MINUTES),
            "TimeoutAction": spot.get("TimeoutAction", "SWITCH_TO_ON_DEMAND"),
            "AllocationStrategy": strategy,
        }
    on_demand = launch.get("OnDemandSpecification", {})
    _note(on_demand, what, ("CapacityReservationOptions",), left_out)
    strategy = on_demand.get("AllocationStrategy")
    if strategy and strategy != "lowest-price":
        left_out.append(f"{what}: allocation strategy {strategy} on demand, lowest-price taken")
    many = len(made["InstanceTypeConfigs"]) > emr_limits.MAX_FLEET_TYPES_WITHOUT_STRATEGY
    if strategy or (many and not found):
        found["OnDemandSpecification"] = {"AllocationStrategy": "lowest-price"}
    return found


def _configurations(
    listed: Sequence[Mapping[str, Any]], home: Path, left_out: list[str]
) -> dict[str, dict[str, Any]]:
    """The cluster's classifications by name, without what `classifications.json` sets for all shapes."""
    shared = json.loads((home / "emr_configs" / "classifications.json").read_text())
    return {item["Classification"]: item for item in _without(listed, shared, left_out)}


def _without(
    listed: Sequence[Mapping[str, Any]], shared: Sequence[Mapping[str, Any]], left_out: list[str]
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    ours = {item["Classification"]: item for item in shared}
    for item in listed:
        name = item["Classification"]
        theirs, set_already = item.get("Properties", {}), ours.get(name, {}).get("Properties", {})
        kept: dict[str, str] = {}
        for key, value in theirs.items():
            # Whether executors come and go is the one shared setting that a shape may have its own of.
            if key not in set_already or (key, value) == ("spark.dynamicAllocation.enabled", "true"):
                kept[key] = value
            elif value != set_already[key] and not re.search(r"\{[a-z]+\}", set_already[key]):
                left_out.append(f"{name}: {key}={value}, {set_already[key]} stays")
        inner = _without(
            item.get("Configurations", []), ours.get(name, {}).get("Configurations", []), left_out
        )
        made: dict[str, Any] = {"Classification": name}
        if kept:
            made["Properties"] = kept
        if inner:
            made["Configurations"] = inner
        if len(made) > 1:
            found.append(made)
    return found


def _size_executors(spark: dict[str, str], workers: Workers, left_out: list[str]) -> int:
    """Cores that run tasks; sets the executors' number and size in ``spark`` where the cluster did not.

    One executor a node of the smallest type. EMR gives YARN about three quarters of a node's memory;
    a GiB of that is left for Spark's application master, and most of the rest is the Python workers'.
    """
    sizes = {name: vcpus(name) for _, weights in workers for name in weights}
    for name, found in sizes.items():
        if found is None:
            left_out.append(f"vCPUs of {name} are not known: 4 assumed, check spark_defaults")
    cores = {name: found or 4 for name, found in sizes.items()}
    smallest = min(cores, key=lambda name: cores[name], default="m5.xlarge")
    dynamic = spark.get("spark.dynamicAllocation.enabled") == "true"
    wanted = spark.get("spark.executor.cores", "")
    each = int(wanted) if wanted.isdecimal() and int(wanted) else cores.get(smallest, 4)
    total = sum(
        units * min(cores[name] / weight for name, weight in weights.items()) for units, weights in workers
    )
    count = spark.get("spark.executor.instances", "")
    if not count.isdecimal() or not int(count):
        count = str(max(1, int(total) // each))
    spark["spark.executor.cores"] = str(each)
    if dynamic:
        spark.pop("spark.executor.instances", None)
        return max(1, int(total))
    spark["spark.executor.instances"] = count
    if "spark.executor.memory" not in spark:
        letter = smallest[0]
        if letter not in _GIB_A_VCPU:
            left_out.append(f"memory of {smallest} is not known: 4 GiB a vCPU assumed, check spark_defaults")
        usable = int(0.75 * 1024 * _GIB_A_VCPU.get(letter, 4) * each) - 1024
        heap = min(4096, max(512, usable // 5 // 512 * 512))
        spark["spark.executor.memory"] = f"{heap}m"
        spark["spark.executor.memoryOverhead"] = f"{max(512, usable - heap)}m"
        left_out.append(f"executors were sized by EMR: {heap} MiB and {usable - heap} MiB of overhead taken")
    return int(count) * each


def _idle_timeout(emr: Any, cluster_id: str, left_out: list[str]) -> int:
    policy = emr.get_auto_termination_policy(ClusterId=cluster_id).get("AutoTerminationPolicy", {})
    if "IdleTimeout" in policy:
        return int(policy["IdleTimeout"])
    left_out.append(f"the cluster never ended by itself: idle_timeout_seconds {IDLE_SECONDS} taken")
    return IDLE_SECONDS


def _ebs_gb(volumes: Sequence[Sequence[Mapping[str, Any]]], left_out: list[str]) -> int:
    """One size for all nodes: the largest that one of them has in all."""
    specifications = [[device["VolumeSpecification"] for device in devices] for devices in volumes]
    sizes = [sum(volume["SizeInGB"] for volume in node) for node in specifications]
    if not any(sizes):
        left_out.append(f"the nodes have no EBS volumes of their own: one of {EBS_GB} GiB gp3 taken for each")
        return EBS_GB
    size = min(1024, max(10, *sizes))
    same = all(len(node) == 1 and node[0]["VolumeType"] == "gp3" for node in specifications)
    if not same or set(sizes) != {size}:
        left_out.append(
            f"the nodes' EBS volumes are not alike, or not gp3: one of {size} GiB gp3 taken for each"
        )
    if any("Iops" in volume or "Throughput" in volume for node in specifications for volume in node):
        left_out.append("IOPS and throughput of the EBS volumes: those of plain gp3 taken")
    return size


def _note_the_rest(emr: Any, described: Mapping[str, Any], left_out: list[str]) -> None:
    """What the cluster has beside its shape."""
    network = described.get("Ec2InstanceAttributes", {})
    settings = [name for name in _OF_THE_DEPLOYMENT if described.get(name)]
    settings += [name for name in _OF_THE_NETWORK if network.get(name)]
    if settings:
        left_out.append(f"the deployment's settings decide instead of: {', '.join(settings)}")
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
    if theirs := [name for name in actions if name != job_flow.BOOTSTRAP]:
        left_out.append(f"bootstrap actions: {', '.join(theirs)}")


def _note(found: Mapping[str, Any], what: str, names: Sequence[str], left_out: list[str]) -> None:
    left_out += [f"{what}: {name}" for name in names if found.get(name)]
