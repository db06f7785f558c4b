"""An existing cluster becomes a shape, and what a shape cannot have is listed.

The clusters live in the local AWS, but for answers that only AWS gives.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.cluster import clone_shape, job_flow, shapes
from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from support.cli import run_cli
from support.local_aws import BUCKET, REGION, LocalAws

Cloned = Callable[..., clone_shape.Clone]


@pytest.fixture
def home(repo: Path, tmp_path: Path) -> Path:
    shutil.copytree(repo / "emr_configs", tmp_path / "emr_configs")
    return tmp_path


@pytest.fixture
def cloned(clusters: LocalAws, home: Path) -> Cloned:
    """Start a cluster of a request's parts and clone it."""

    def start(**parts: Any) -> clone_shape.Clone:
        cluster_id = clusters.run(name="Fruit research", tags=parts.pop("tags", None), **parts)
        return clone_shape.clone(clusters.emr, cluster_id, home, "mine")

    return start


def group(role: str, count: int = 1, **fields: Any) -> dict[str, Any]:
    defaults = {
        "InstanceRole": role,
        "InstanceType": "m5.xlarge",
        "InstanceCount": count,
        "Market": "ON_DEMAND",
    }
    return {**defaults, **fields}


def ebs(size: int, kind: str = "gp3", count: int = 1, **fields: Any) -> dict[str, Any]:
    specification = {"VolumeType": kind, "SizeInGB": size, **fields}
    device = {"VolumeSpecification": specification, "VolumesPerInstance": count}
    return {"EbsConfiguration": {"EbsBlockDeviceConfigs": [device]}}


@pytest.mark.parametrize("name", ["small", "standard", "graviton", "notebook"])
def test_the_clone_of_a_shapes_own_cluster_is_the_shape(
    deployment: Settings, home: Path, clusters: LocalAws, name: str
) -> None:
    shape = shapes.load_shape(home, name)
    code = clusters.put("clone/install.sh", "true")
    request = job_flow.build_request(deployment, shape, "r1", f"s3://{BUCKET}/clone", code, "s3://b-1/w")
    cluster_id = clusters.emr.run_job_flow(**request)["JobFlowId"]
    result = clone_shape.clone(clusters.emr, cluster_id, home, "mine")
    theirs = json.loads(shapes.shape_file(home, name).read_text())
    described = result.values.pop("description")
    assert described == f"As cluster {cluster_id} (image-features r1)"
    if name == "notebook":  # the bucket has its name now
        theirs = json.loads(json.dumps(theirs).replace("{bucket}", BUCKET))
    assert result.values == {field: value for field, value in theirs.items() if field != "description"}
    assert all(line.startswith("decided by the deployment's settings") for line in result.left_out)


def test_a_clone_of_a_plain_cluster_is_sized_and_passes_the_schema(cloned: Cloned, home: Path) -> None:
    result = cloned(
        Instances={
            "InstanceGroups": [
                group("MASTER", **ebs(32)),
                group("CORE", 3, InstanceType="m5.2xlarge", **ebs(32)),
            ]
        },
        AutoTerminationPolicy={"IdleTimeout": 3600},
    )
    shape = shapes.parse_shape(result.values, home, home / "mine.json")
    assert (shape.purpose, shape.architecture, shape.release_label) == ("features", "x86_64", "emr-7.14.0")
    assert (shape.idle_timeout_seconds, shape.ebs_gb, shape.worker_cores) == (3600, 32, 24)
    assert shape.spark_defaults == {
        "spark.executor.instances": "3",
        "spark.executor.cores": "8",
        "spark.executor.memory": "4096m",
        "spark.executor.memoryOverhead": "19456m",  # three quarters of 32 GiB, less one GiB, less the heap
    }
    assert any(
        line.startswith("EMR sized the executors: set to 4096 MiB of heap") for line in result.left_out
    )


def test_what_a_shape_cannot_have_is_listed(cloned: Cloned, home: Path) -> None:
    result = cloned(
        tags={"team": "fruit", aws_clusters.RUN_TAG: "r9"},
        ReleaseLabel="emr-6.15.0",
        Applications=[{"Name": "Hadoop"}, {"Name": "Hive"}],
        CustomAmiId="ami-1",
        EbsRootVolumeSize=50,
        StepConcurrencyLevel=4,
        ManagedScalingPolicy={
            "ComputeLimits": {"UnitType": "Instances", "MinimumCapacityUnits": 1, "MaximumCapacityUnits": 4}
        },
        BootstrapActions=[{"Name": "tune", "ScriptBootstrapAction": {"Path": f"s3://{BUCKET}/none.sh"}}],
        Configurations=[
            {"Classification": "spark-defaults", "Properties": {"spark.python.worker.reuse": "false"}},
            {
                "Classification": "spark-env",
                "Configurations": [
                    {"Classification": "export", "Properties": {"PYSPARK_PYTHON": "/usr/bin/python3"}}
                ],
            },
            {"Classification": "hive-site", "Properties": {"hive.x": "1"}},
        ],
        Instances={
            "Ec2KeyName": "key",
            "Ec2SubnetId": "subnet-1",
            "InstanceGroups": [
                group("MASTER", Market="SPOT", BidPrice="0.1"),
                group("CORE", 2, **ebs(50, "gp2", 2, Iops=300)),
                group("TASK", 1, Market="SPOT"),
            ],
        },
    )
    text = "\n".join(result.left_out)
    for line in (
        "release emr-6.15.0: replaced by emr-7.14.0; nodes need Python 3.11 of EMR 7",
        "MASTER 'Master' is 1 SPOT: replaced by one node on demand, which runs the driver",
        "MASTER 'Master': BidPrice",
        "the cluster has no Spark: added",
        "spark-defaults: spark.python.worker.reuse=false replaced by true",
        "export: PYSPARK_PYTHON=/usr/bin/python3 replaced by /opt/image-features/venv/bin/python",
        "the cluster has no idle timeout: idle_timeout_seconds set to 900",
        "EBS volumes differ, or are not gp3: replaced by one of 100 GiB gp3 a node",
        "IOPS and throughput of the EBS volumes",
        "decided by the deployment's settings: LogUri, ServiceRole, Ec2KeyName, Ec2SubnetId, Iam",
        "the cluster: CustomAmiId",
        "the cluster: EbsRootVolumeSize",
        "StepConcurrencyLevel 4",
        "tags: team",
        "managed scaling",
        "bootstrap actions: tune",
    ):
        assert line in text, line
    shape = shapes.parse_shape(result.values, home, home / "mine.json")
    assert shape.applications == ["Spark", "Hadoop", "Hive"]
    assert shape.classifications == [{"Classification": "hive-site", "Properties": {"hive.x": "1"}}]
    assert [(nodes.role, nodes.market, nodes.units) for nodes in shape.nodes] == [
        ("MASTER", "ON_DEMAND", 1),
        ("CORE", "ON_DEMAND", 2),
        ("TASK", "SPOT", 1),
    ]


def test_a_fleet_keeps_weights_targets_and_its_spot_rules(cloned: Cloned, home: Path) -> None:
    types = [
        {"InstanceType": "m7g.xlarge", "WeightedCapacity": 4, **ebs(20)},
        {"InstanceType": "m7g.2xlarge", "WeightedCapacity": 8, **ebs(20)},
    ]
    primary = [{"InstanceType": "m7g.xlarge", **ebs(20)}]
    specification = {
        "TimeoutDurationMinutes": 20,
        "TimeoutAction": "TERMINATE_CLUSTER",
        "AllocationStrategy": "capacity-optimized-prioritized",
    }
    result = cloned(
        Instances={
            "InstanceGroups": [],
            "InstanceFleets": [
                {"InstanceFleetType": "MASTER", "TargetSpotCapacity": 1, "InstanceTypeConfigs": primary},
                {"InstanceFleetType": "CORE", "TargetOnDemandCapacity": 8, "InstanceTypeConfigs": types},
                {
                    "InstanceFleetType": "TASK",
                    "TargetOnDemandCapacity": 4,
                    "TargetSpotCapacity": 16,
                    "InstanceTypeConfigs": types,
                    "LaunchSpecifications": {"SpotSpecification": specification},
                },
            ],
        }
    )
    shape = shapes.parse_shape(result.values, home, home / "mine.json")
    assert (shape.architecture, shape.ebs_gb) == ("arm64", 20)
    weights = {"m7g.xlarge": 4, "m7g.2xlarge": 8}
    assert shape.nodes == [
        shapes.Nodes("MASTER", "ON_DEMAND", 1, {"m7g.xlarge": 1}),
        shapes.Nodes("CORE", "ON_DEMAND", 8, weights),
        shapes.Nodes("TASK", "ON_DEMAND", 4, weights),
        shapes.Nodes("TASK", "SPOT", 16, weights),
    ]
    # A unit is a vCPU here: 28 of them, in executors for the smallest type.
    assert (shape.worker_cores, shape.spark_defaults["spark.executor.instances"]) == (28, "7")
    assert shape.instance_fleets[2]["LaunchSpecifications"]["SpotSpecification"] == {
        **specification,
        "AllocationStrategy": "price-capacity-optimized",
    }
    text = "\n".join(result.left_out)
    assert "MASTER 'Master' is 0 on demand and 1 Spot: replaced by one node on demand" in text
    assert "allocation strategy capacity-optimized-prioritized replaced by price-capacity-optimized" in text


def test_a_cluster_that_makes_no_shape_is_refused_in_words(cloned: Cloned) -> None:
    with pytest.raises(JobError, match=r"emr_configs/mine\.json: instance_groups is .*: give 2 to 50 groups"):
        cloned(Instances={"InstanceGroups": [group("MASTER")]})
    with pytest.raises(JobError, match="give types of one architecture only"):
        cloned(Instances={"InstanceGroups": [group("MASTER"), group("CORE", InstanceType="m7g.xlarge")]})


class Answers:
    """EMR as it answers for clusters that the local AWS does not make: groups scaled to nothing."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def describe_cluster(self, **_: Any) -> Any:
        return {"Cluster": self.answers["cluster"]}

    def get_auto_termination_policy(self, **_: Any) -> Any:
        return {}

    def get_managed_scaling_policy(self, **_: Any) -> Any:
        return {}

    def get_paginator(self, operation: str) -> Any:
        self.operation = operation
        return self

    def paginate(self, **_: Any) -> list[Any]:
        return [self.answers.get(self.operation, {"BootstrapActions": []})]


def test_groups_without_nodes_and_types_of_unknown_size_are_listed(home: Path) -> None:
    def listed(role: str, kind: str, count: int) -> dict[str, Any]:
        return {"Id": role, "InstanceGroupType": role, "InstanceType": kind, "RequestedInstanceCount": count}

    groups = [listed("MASTER", "m5.xlarge", 3), listed("CORE", "i3.metal", 2), listed("TASK", "m5.xlarge", 0)]
    emr = Answers(
        cluster={
            "Id": "j-1",
            "Name": "big",
            "ReleaseLabel": "emr-7.1.0",
            "Applications": [{"Name": "Spark"}],
        },
        list_instance_groups={"InstanceGroups": groups},
    )
    result = clone_shape.clone(emr, "j-1", home, "big")
    text = "\n".join(result.left_out)
    assert "MASTER 'MASTER' is 3 ON_DEMAND: replaced by one node on demand" in text
    assert "TASK 'TASK' has no nodes: left out" in text
    assert "vCPUs of i3.metal are unknown: 4 assumed" in text
    assert "memory of i3.metal is unknown" in text
    assert result.values["worker_cores"] == 8
    assert [result.values[name] for name in ("release_label", "ebs_gb")] == ["emr-7.1.0", 32]


@pytest.mark.parametrize("name", ["../up", "", "Mine", "a b", "x" * 51])
def test_a_name_that_is_no_file_name_is_refused(home: Path, name: str) -> None:
    with pytest.raises(JobError, match="small letters, digits, '_' and '-' only"):
        clone_shape.clone(Answers(), "j-1", home, name)


def test_a_name_that_is_taken_is_refused(home: Path) -> None:
    for name in ("small", "schema", "classifications"):
        with pytest.raises(JobError, match=rf"{name}\.json exists; take another --name"):
            clone_shape.clone(Answers(), "j-1", home, name)


@pytest.mark.usefixtures("s3_environment")
def test_the_command_prints_the_shape_and_writes_it_on_demand(
    clusters: LocalAws, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRUITS_HOME", str(home))
    monkeypatch.setenv("FRUITS_REGION", REGION)
    cluster_id = clusters.run(name="plain")
    shown = run_cli("clone-shape", "--cluster", cluster_id, "--name", "mine")
    assert shown.returncode == 0
    printed = json.loads(shown.stdout)
    assert "mine" not in shapes.shape_names(home)
    assert run_cli("clone-shape", "--cluster", cluster_id, "--name", "mine", "--write").returncode == 0
    assert json.loads((home / "emr_configs" / "mine.json").read_text()) == printed
    assert "mine" in shapes.descriptions(home)
    refused = run_cli("clone-shape", "--cluster", "j-NONE", "--name", "other")
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("error: cluster j-NONE in eu-west-3")
