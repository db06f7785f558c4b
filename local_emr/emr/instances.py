"""The instance groups or fleets of a cluster: numbers and states only, as all work runs on one machine."""

from __future__ import annotations

import math
import string
import time
from dataclasses import dataclass, field
from typing import Any

from local_emr.emr.api_values import new_ec2_id, new_id, timeline, without_none

ROLES = ("MASTER", "CORE", "TASK")
DEFAULT_NAMES = {"MASTER": "Master", "CORE": "Core", "TASK": "Task"}


@dataclass
class Instance:
    """``address`` is the instance's number in its cluster, which its names and IP addresses derive from."""

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
class InstanceCollection:
    """All groups or all fleets of a cluster; ``kind`` is INSTANCE_GROUP or INSTANCE_FLEET."""

    kind: str
    pools: list[Pool]
    state: str = "PROVISIONING"
    created: float = field(default_factory=time.time)
    ready: float | None = None
    ended: float | None = None

    @staticmethod
    def from_request(request: dict[str, Any]) -> InstanceCollection:
        """The instances of the ``Instances`` member of a RunJobFlow request."""
        fleets = request.get("InstanceFleets")
        groups = request.get("InstanceGroups") or _simple_groups(request)
        pools = []
        count = 0
        for config in fleets or groups:
            types = _fleet_instances(config) if fleets else _group_instances(config)
            instances = [
                Instance(new_id("ci-"), new_ec2_id(), instance_type, market, count + n)
                for n, (instance_type, market) in enumerate(types)
            ]
            count += len(instances)
            role = config["InstanceFleetType"] if fleets else config["InstanceRole"]
            pools.append(Pool(new_id("if-" if fleets else "ig-"), role, config, instances))
        return InstanceCollection("INSTANCE_FLEET" if fleets else "INSTANCE_GROUP", pools)

    @staticmethod
    def from_json(data: dict[str, Any]) -> InstanceCollection:
        pools = [Pool(**{**p, "instances": [Instance(**i) for i in p["instances"]]}) for p in data["pools"]]
        return InstanceCollection(**{**data, "pools": pools})

    @property
    def master(self) -> Instance:
        return next(pool.instances[0] for pool in self.pools if pool.role == "MASTER")

    def _status(self) -> dict[str, Any]:
        reason = (
            {"Code": "CLUSTER_TERMINATED", "Message": "Job flow terminated"}
            if self.ended
            else {"Message": ""}
        )
        return {
            "State": self.state,
            "StateChangeReason": reason,
            "Timeline": timeline(self.created, self.ended, ReadyDateTime=self.ready),
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
            "Name": config.get("Name") or DEFAULT_NAMES[pool.role],
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
        return without_none(described)

    def _fleet(self, pool: Pool) -> dict[str, Any]:
        config = pool.config
        types = config.get("InstanceTypeConfigs") or []
        weights = {t["InstanceType"]: t.get("WeightedCapacity", 1) for t in types}
        provisioned = {
            market: sum(weights[i.type] for i in self._running(pool) if i.market == market)
            for market in ("ON_DEMAND", "SPOT")
        }
        copied = (
            "InstanceType",
            "BidPrice",
            "BidPriceAsPercentageOfOnDemandPrice",
            "Configurations",
            "Priority",
        )
        described = {
            "Id": pool.id,
            "Name": config.get("Name") or DEFAULT_NAMES[pool.role],
            "Status": self._status(),
            "InstanceFleetType": pool.role,
            "TargetOnDemandCapacity": config.get("TargetOnDemandCapacity", 0),
            "TargetSpotCapacity": config.get("TargetSpotCapacity", 0),
            "ProvisionedOnDemandCapacity": provisioned["ON_DEMAND"],
            "ProvisionedSpotCapacity": provisioned["SPOT"],
            "InstanceTypeSpecifications": [
                {
                    "WeightedCapacity": weights[t["InstanceType"]],
                    "EbsBlockDevices": _devices(t),
                    **{k: t[k] for k in copied if k in t},
                }
                for t in types
            ],
            "LaunchSpecifications": config.get("LaunchSpecifications"),
            "ResizeSpecifications": config.get("ResizeSpecifications"),
            "Context": config.get("Context"),
        }
        return without_none(described)


def _devices(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The EBS volumes of one instance, each as an entry of its own."""
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
    """The groups for MasterInstanceType, SlaveInstanceType and InstanceCount."""
    count = request.get("InstanceCount") or 1
    master = request.get("MasterInstanceType", "m5.xlarge")
    groups = [{"InstanceRole": "MASTER", "InstanceType": master, "InstanceCount": 1}]
    if count > 1:
        core = request.get("SlaveInstanceType") or master
        groups.append({"InstanceRole": "CORE", "InstanceType": core, "InstanceCount": count - 1})
    return groups


def _group_instances(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Type and market of each instance of a group."""
    return [(config["InstanceType"], config.get("Market", "ON_DEMAND"))] * config["InstanceCount"]


def _fleet_instances(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Type and market of each instance of a fleet: its first type fills both targets."""
    first = config["InstanceTypeConfigs"][0]
    weight = first.get("WeightedCapacity", 1)
    on_demand = math.ceil(config.get("TargetOnDemandCapacity", 0) / weight)
    spot = math.ceil(config.get("TargetSpotCapacity", 0) / weight)
    return [(first["InstanceType"], "ON_DEMAND")] * on_demand + [(first["InstanceType"], "SPOT")] * spot
