"""The instance groups or fleets of a cluster: numbers and states only, all work runs on one machine."""

from __future__ import annotations

import math
import random
import string
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

ROLES = ("MASTER", "CORE", "TASK")
NAMES = {"MASTER": "Master", "CORE": "Core", "TASK": "Task"}


def new_id(prefix: str, length: int = 13) -> str:
    """An identifier as EMR makes them."""
    alphabet = string.ascii_uppercase + string.digits
    return prefix + "".join(random.choices(alphabet, k=length))  # noqa: S311 - a name, not a secret


def _ec2_id() -> str:
    return "i-" + "".join(random.choices("0123456789abcdef", k=17))  # noqa: S311


@dataclass
class Instance:
    id: str
    ec2_id: str
    type: str
    market: str
    address: int

    @property
    def private_ip(self) -> str:
        return f"10.0.{self.address // 250}.{self.address % 250 + 4}"

    @property
    def public_ip(self) -> str:
        return f"198.51.{self.address // 250}.{self.address % 250 + 4}"  # a block reserved for examples

    @property
    def public_dns(self) -> str:
        return f"ec2-{self.public_ip.replace('.', '-')}.compute.amazonaws.com"

    @property
    def private_dns(self) -> str:
        return f"ip-{self.private_ip.replace('.', '-')}.ec2.internal"


@dataclass
class Pool:
    """One group or one fleet; ``config`` is its part of the RunJobFlow request."""

    id: str
    role: str
    config: dict[str, Any]
    instances: list[Instance]


@dataclass
class Collection:
    """``kind`` is INSTANCE_GROUP or INSTANCE_FLEET, as in DescribeCluster."""

    kind: str
    pools: list[Pool]
    state: str = "PROVISIONING"
    created: float = field(default_factory=time.time)
    ready: float | None = None
    ended: float | None = None

    @staticmethod
    def of(request: dict[str, Any]) -> Collection:
        """The instances that ``Instances`` of a RunJobFlow request asks for."""
        fleets = request.get("InstanceFleets")
        groups = request.get("InstanceGroups") or _simple_groups(request)
        pools = []
        count = 0
        for config in fleets or groups:
            wanted = _fleet_instances(config) if fleets else _group_instances(config)
            instances = [
                Instance(new_id("ci-"), _ec2_id(), kind, market, count + n)
                for n, (kind, market) in enumerate(wanted)
            ]
            count += len(instances)
            role = config["InstanceFleetType"] if fleets else config["InstanceRole"]
            pools.append(Pool(new_id("if-" if fleets else "ig-"), role, config, instances))
        return Collection("INSTANCE_FLEET" if fleets else "INSTANCE_GROUP", pools)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Collection:
        pools = [Pool(**{**p, "instances": [Instance(**i) for i in p["instances"]]}) for p in data["pools"]]
        return Collection(**{**data, "pools": pools})

    @property
    def master(self) -> Instance:
        return next(pool.instances[0] for pool in self.pools if pool.role == "MASTER")

    def _status(self, reason_of_end: bool = True) -> dict[str, Any]:
        times = {"CreationDateTime": self.created, "ReadyDateTime": self.ready, "EndDateTime": self.ended}
        reason = (
            {"Code": "CLUSTER_TERMINATED", "Message": "Job flow terminated"}
            if self.ended
            else {"Message": ""}
        )
        return {
            "State": self.state,
            "StateChangeReason": reason,
            "Timeline": {k: datetime.fromtimestamp(v, UTC) for k, v in times.items() if v is not None},
        }

    def describe_groups(self) -> list[dict[str, Any]]:
        return [self._group(pool) for pool in self.pools]

    def describe_fleets(self) -> list[dict[str, Any]]:
        return [self._fleet(pool) for pool in self.pools]

    def describe_instances(
        self, pool_id: str | None, roles: list[str] | None, states: list[str] | None
    ) -> list[dict[str, Any]]:
        fleet = self.kind == "INSTANCE_FLEET"
        state = "TERMINATED" if self.state == "TERMINATING" else self.state
        if states and state not in states:
            return []
        return [
            {
                "Id": instance.id,
                "Ec2InstanceId": instance.ec2_id,
                "PublicDnsName": instance.public_dns,
                "PublicIpAddress": instance.public_ip,
                "PrivateDnsName": instance.private_dns,
                "PrivateIpAddress": instance.private_ip,
                "Status": {**self._status(), "State": state},
                ("InstanceFleetId" if fleet else "InstanceGroupId"): pool.id,
                "Market": instance.market,
                "InstanceType": instance.type,
                "EbsVolumes": [],
            }
            for pool in self.pools
            if pool_id in (None, pool.id) and (not roles or pool.role in roles)
            for instance in pool.instances
        ]

    def _running(self, pool: Pool) -> list[Instance]:
        return pool.instances if self.state == "RUNNING" else []

    def _group(self, pool: Pool) -> dict[str, Any]:
        config = pool.config
        described = {
            "Id": pool.id,
            "Name": config.get("Name") or NAMES[pool.role],
            "Market": config.get("Market", "ON_DEMAND"),
            "InstanceGroupType": pool.role,
            "BidPrice": config.get("BidPrice"),
            "InstanceType": config["InstanceType"],
            "RequestedInstanceCount": len(pool.instances),
            "RunningInstanceCount": len(self._running(pool)),
            "Status": self._status(),
            "Configurations": config.get("Configurations", []),
            "EbsBlockDevices": _devices(config),
            "ShrinkPolicy": {},
        }
        return {k: v for k, v in described.items() if v is not None}

    def _fleet(self, pool: Pool) -> dict[str, Any]:
        config = pool.config
        types = config.get("InstanceTypeConfigs") or []
        weight = {t["InstanceType"]: t.get("WeightedCapacity", 1) for t in types}
        provisioned = {
            market: sum(weight[i.type] for i in self._running(pool) if i.market == market)
            for market in ("ON_DEMAND", "SPOT")
        }
        shown = (
            "InstanceType",
            "BidPrice",
            "BidPriceAsPercentageOfOnDemandPrice",
            "Configurations",
            "Priority",
        )
        described = {
            "Id": pool.id,
            "Name": config.get("Name") or NAMES[pool.role],
            "Status": self._status(),
            "InstanceFleetType": pool.role,
            "TargetOnDemandCapacity": config.get("TargetOnDemandCapacity", 0),
            "TargetSpotCapacity": config.get("TargetSpotCapacity", 0),
            "ProvisionedOnDemandCapacity": provisioned["ON_DEMAND"],
            "ProvisionedSpotCapacity": provisioned["SPOT"],
            "InstanceTypeSpecifications": [
                {
                    "WeightedCapacity": weight[t["InstanceType"]],
                    "EbsBlockDevices": _devices(t),
                    **{k: t[k] for k in shown if k in t},
                }
                for t in types
            ],
            "LaunchSpecifications": config.get("LaunchSpecifications"),
            "ResizeSpecifications": config.get("ResizeSpecifications"),
            "Context": config.get("Context"),
        }
        return {k: v for k, v in described.items() if v is not None}


def _devices(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The EBS volumes of one node, one by one."""
    volumes = [
        device["VolumeSpecification"]
        for device in (config.get("EbsConfiguration") or {}).get("EbsBlockDeviceConfigs") or []
        for _ in range(device.get("VolumesPerInstance") or 1)
    ]
    return [
        {"VolumeSpecification": volume, "Device": f"/dev/sd{letter}"}
        for volume, letter in zip(volumes, string.ascii_lowercase[1:], strict=False)
    ]


def _simple_groups(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The groups that MasterInstanceType, SlaveInstanceType and InstanceCount stand for."""
    count = request.get("InstanceCount") or 1
    master = request.get("MasterInstanceType", "m5.xlarge")
    groups = [{"InstanceRole": "MASTER", "InstanceType": master, "InstanceCount": 1}]
    if count > 1:
        core = request.get("SlaveInstanceType") or master
        groups.append({"InstanceRole": "CORE", "InstanceType": core, "InstanceCount": count - 1})
    return groups


def _group_instances(config: dict[str, Any]) -> list[tuple[str, str]]:
    return [(config["InstanceType"], config.get("Market", "ON_DEMAND"))] * config["InstanceCount"]


def _fleet_instances(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Fills each target with the first instance type, as if it were the one that could be had."""
    first = config["InstanceTypeConfigs"][0]
    weight = first.get("WeightedCapacity", 1)
    on_demand = math.ceil(config.get("TargetOnDemandCapacity", 0) / weight)
    spot = math.ceil(config.get("TargetSpotCapacity", 0) / weight)
    return [(first["InstanceType"], "ON_DEMAND")] * on_demand + [(first["InstanceType"], "SPOT")] * spot
