"""Clusters and steps: their data, and their descriptions in EMR's API.

Requests and answers have the names of the EMR API. Times are seconds since the epoch.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from local_emr.emr.api_values import timeline, without_none
from local_emr.emr.instances import InstanceCollection

ENDED = ("TERMINATED", "TERMINATED_WITH_ERRORS")
STEP_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")

# Members that DescribeCluster returns as RunJobFlow received them.
COPIED_FROM_REQUEST = (
    "LogUri",
    "LogEncryptionKmsKeyId",
    "ReleaseLabel",
    "OSReleaseLabel",
    "CustomAmiId",
    "RepoUpgradeOnBoot",
    "ServiceRole",
    "AutoScalingRole",
    "ScaleDownBehavior",
    "SecurityConfiguration",
    "KerberosAttributes",
    "EbsRootVolumeSize",
    "EbsRootVolumeIops",
    "EbsRootVolumeThroughput",
)


@dataclass
class Step:
    """``message`` is the reason of the state, ``failure`` the FailureDetails of a failed step."""

    id: str
    name: str
    action_on_failure: str
    jar: str
    args: list[str]
    main_class: str | None = None
    properties: dict[str, str] = field(default_factory=dict)
    state: str = "PENDING"
    message: str | None = None
    failure: dict[str, str] | None = None
    created: float = field(default_factory=time.time)
    started: float | None = None
    ended: float | None = None

    def describe(self) -> dict[str, Any]:
        status = {
            "State": self.state,
            "StateChangeReason": {"Message": self.message} if self.message else {},
            "FailureDetails": self.failure,
            "Timeline": timeline(self.created, self.ended, StartDateTime=self.started),
        }
        config = {
            "Jar": self.jar,
            "Properties": self.properties,
            "MainClass": self.main_class,
            "Args": self.args,
        }
        return {
            "Id": self.id,
            "Name": self.name,
            "Config": without_none(config),
            "ActionOnFailure": self.action_on_failure,
            "Status": without_none(status),
        }


@dataclass
class Cluster:
    """``request`` is the RunJobFlow request; each setting that can change later is a field of its own."""

    id: str
    region: str
    account: str
    request: dict[str, Any]
    collection: InstanceCollection
    keep_alive: bool
    protected: bool
    concurrency: int
    idle_timeout: int | None
    scaling_policy: dict[str, Any] | None
    tags: dict[str, str]
    steps: list[Step] = field(default_factory=list)
    state: str = "STARTING"
    code: str | None = None
    message: str | None = "Provisioning Amazon EC2 capacity"
    created: float = field(default_factory=time.time)
    ready: float | None = None
    ended: float | None = None

    @property
    def name(self) -> str:
        return self.request.get("Name", "")

    @property
    def arn(self) -> str:
        partition = "aws-cn" if self.region.startswith("cn-") else "aws"
        return f"arn:{partition}:elasticmapreduce:{self.region}:{self.account}:cluster/{self.id}"

    def status(self) -> dict[str, Any]:
        return {
            "State": self.state,
            "StateChangeReason": without_none({"Code": self.code, "Message": self.message}),
            "Timeline": timeline(self.created, self.ended, ReadyDateTime=self.ready),
        }

    def summary(self) -> dict[str, Any]:
        return {
            "Id": self.id,
            "Name": self.name,
            "Status": self.status(),
            "NormalizedInstanceHours": 0,
            "ClusterArn": self.arn,
        }

    def describe(self) -> dict[str, Any]:
        request, instances = self.request, self.request["Instances"]
        subnets = instances.get("Ec2SubnetIds") or []
        ec2 = {
            "Ec2KeyName": instances.get("Ec2KeyName"),
            "Ec2SubnetId": instances.get("Ec2SubnetId") or (subnets[0] if subnets else None),
            "RequestedEc2SubnetIds": subnets,
            "Ec2AvailabilityZone": (instances.get("Placement") or {}).get(
                "AvailabilityZone", f"{self.region}a"
            ),
            "IamInstanceProfile": request.get("JobFlowRole"),
            "EmrManagedMasterSecurityGroup": instances.get("EmrManagedMasterSecurityGroup"),
            "EmrManagedSlaveSecurityGroup": instances.get("EmrManagedSlaveSecurityGroup"),
            "ServiceAccessSecurityGroup": instances.get("ServiceAccessSecurityGroup"),
            "AdditionalMasterSecurityGroups": instances.get("AdditionalMasterSecurityGroups", []),
            "AdditionalSlaveSecurityGroups": instances.get("AdditionalSlaveSecurityGroups", []),
        }
        described = {
            **self.summary(),
            **{name: request.get(name) for name in COPIED_FROM_REQUEST},
            "Ec2InstanceAttributes": without_none(ec2),
            "InstanceCollectionType": self.collection.kind,
            "AutoTerminate": not self.keep_alive,
            "TerminationProtected": self.protected,
            "UnhealthyNodeReplacement": instances.get("UnhealthyNodeReplacement"),
            "VisibleToAllUsers": request.get("VisibleToAllUsers", True),
            "Applications": request.get("Applications") or [{"Name": "Spark"}],
            "Configurations": request.get("Configurations") or [],
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags.items()],
            "MasterPublicDnsName": self.collection.master.public_dns if self.ready else None,
            "StepConcurrencyLevel": self.concurrency,
            "PlacementGroups": request.get("PlacementGroupConfigs") or [],
        }
        return without_none(described)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Cluster:
        """Raises KeyError or TypeError when ``data`` does not come from to_json."""
        steps = [Step(**step) for step in data["steps"]]
        return Cluster(
            **{**data, "steps": steps, "collection": InstanceCollection.from_json(data["collection"])}
        )
