"""EMR accepts the request for a cluster, and a run's clusters are identified by their tag."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import moto
import pytest

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.cluster import job_flow, shapes
from fruit_pipeline.cluster.clone_shape import vcpus
from fruit_pipeline.cluster.shape_schema import architecture_of
from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from support.emr_model import refused_by_emr
from support.local_aws import REGION

URIS = ("s3://b-1/runs/r1/logs", "s3://b-1/runs/r1/code/install.sh", "s3://b-1/wheelhouse/abc")

# What EMR gives YARN of a node with 4 vCPUs and 16 GiB, and Spark's application master in client mode.
# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-hadoop-task-config.html
YARN_MB = 12_288
MASTER_MB = 512 + 384


@pytest.fixture
def built(deployment: Settings, repo: Path) -> dict[str, Any]:
    return job_flow.build_request(deployment, shapes.load_shape(repo, "small"), "r1", *URIS)


@pytest.fixture
def home(repo: Path, tmp_path: Path) -> Path:
    """A home whose shapes a test may change."""
    shutil.copytree(repo / "emr_configs", tmp_path / "emr_configs")
    return tmp_path


def change(home: Path, name: str = "small", **fields: Any) -> None:
    path = home / "emr_configs" / f"{name}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def group(role: str, **fields: Any) -> dict[str, Any]:
    defaults = {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": 1, "Market": "ON_DEMAND"}
    return {**defaults, **fields}


def fleet(role: str, **fields: Any) -> dict[str, Any]:
    types = [{"InstanceType": "m5.xlarge"}]
    return {"InstanceFleetType": role, "TargetOnDemandCapacity": 1, "InstanceTypeConfigs": types, **fields}


def spot(**fields: Any) -> dict[str, Any]:
    specification = {
        "TimeoutDurationMinutes": 10,
        "TimeoutAction": "SWITCH_TO_ON_DEMAND",
        "AllocationStrategy": "price-capacity-optimized",
    }
    return {
        "TargetOnDemandCapacity": 0,
        "TargetSpotCapacity": 2,
        "LaunchSpecifications": {"SpotSpecification": {**specification, **fields}},
    }


def properties(request: dict[str, Any], classification: str) -> dict[str, str]:
    (item,) = (c for c in request["Configurations"] if c["Classification"] == classification)
    return item["Properties"]


def test_every_shape_gives_a_request_that_emr_takes(deployment: Settings, repo: Path) -> None:
    for name in shapes.shape_names(repo):
        request = job_flow.build_request(deployment, shapes.load_shape(repo, name), "r1", *URIS)
        assert refused_by_emr("RunJobFlow", request) == ""


def test_the_request_is_plain_json_as_xcom_and_the_aws_cli_need_it(built: dict[str, Any]) -> None:
    assert json.loads(json.dumps(built)) == built


def test_the_cluster_carries_the_runs_tag_the_projects_and_emrs_own(built: dict[str, Any]) -> None:
    tags = {tag["Key"]: tag["Value"] for tag in built["Tags"]}
    assert tags == {
        aws_clusters.RUN_TAG: "r1",
        "project": "image-features",
        "for-use-with-amazon-emr-managed-policies": "true",
    }


def test_owner_and_more_tags_are_carried_when_there_are_any(deployment: Settings, repo: Path) -> None:
    settings = replace(deployment, owner="data team")
    shape = shapes.load_shape(repo, "small")
    request = job_flow.build_request(settings, shape, "r1", *URIS, more_tags={"until": "18:00"})
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert (tags["owner"], tags["until"]) == ("data team", "18:00")


def test_a_tag_that_emr_would_refuse_is_refused_before(deployment: Settings, repo: Path) -> None:
    shape = shapes.load_shape(repo, "small")
    with pytest.raises(JobError, match=r"tag 'until' has '18h\?'"):
        job_flow.build_request(deployment, shape, "r1", *URIS, more_tags={"until": "18h?"})


def test_an_idle_cluster_ends_itself(built: dict[str, Any], repo: Path) -> None:
    assert built["AutoTerminationPolicy"] == {
        "IdleTimeout": shapes.load_shape(repo, "small").idle_timeout_seconds
    }
    assert built["Instances"]["TerminationProtected"] is False


def test_region_bucket_and_logs_are_filled_in(deployment: Settings, repo: Path) -> None:
    settings = replace(deployment, region="eu-north-1")
    for name in shapes.shape_names(repo):
        request = job_flow.build_request(settings, shapes.load_shape(repo, name), "r1", *URIS)
        text = json.dumps(request)
        assert '"AWS_REGION": "eu-north-1"' in text
        assert not [field for field in ("{region}", "{bucket}", "{logs}") if field in text]
        defaults = properties(request, "spark-defaults")
        assert defaults["spark.eventLog.dir"] == f"s3://b-1/runs/r1/logs/{job_flow.EVENT_LOGS}/"
        assert defaults["spark.history.fs.logDirectory"] == defaults["spark.eventLog.dir"]
    assert job_flow.EVENT_LOGS_MARKER.startswith(
        f"{job_flow.EVENT_LOGS}/."
    )  # Spark's history skips dot files


def test_the_shapes_spark_settings_join_the_shared_ones(built: dict[str, Any], repo: Path) -> None:
    shape = shapes.load_shape(repo, "small")
    defaults = properties(built, "spark-defaults")
    assert shape.spark_defaults.items() <= defaults.items()
    assert defaults["spark.dynamicAllocation.enabled"] == "false"


def test_a_shapes_classification_joins_the_shared_one_of_its_name(deployment: Settings, home: Path) -> None:
    own = [
        {
            "Classification": "spark-env",
            "Configurations": [{"Classification": "export", "Properties": {"TZ": "UTC", "AWS_REGION": "x"}}],
        },
        {"Classification": "hdfs-site", "Properties": {"dfs.replication": "1"}},
    ]
    change(home, classifications=own)
    settings = replace(deployment, home=home)
    request = job_flow.build_request(settings, shapes.load_shape(home, "small"), "r1", *URIS)
    names = [item["Classification"] for item in request["Configurations"]]
    assert sorted(names) == ["hdfs-site", "spark-defaults", "spark-env"]
    (env,) = (item for item in request["Configurations"] if item["Classification"] == "spark-env")
    (export,) = env["Configurations"]
    assert export["Properties"] == {
        "PYSPARK_PYTHON": "/opt/image-features/venv/bin/python",
        "AWS_REGION": "x",
        "TZ": "UTC",
    }


def test_each_node_gets_its_gp3_volume(deployment: Settings, repo: Path) -> None:
    for name in shapes.shape_names(repo):
        shape = shapes.load_shape(repo, name)
        instances = job_flow.build_request(deployment, shape, "r1", *URIS)["Instances"]
        fleets = instances.get("InstanceFleets", [])
        nodes = instances.get("InstanceGroups", []) + [c for f in fleets for c in f["InstanceTypeConfigs"]]
        volume = {"VolumeSpecification": {"VolumeType": "gp3", "SizeInGB": shape.ebs_gb}}
        for node in nodes:
            (device,) = node["EbsConfiguration"]["EbsBlockDeviceConfigs"]
            assert device == {**volume, "VolumesPerInstance": 1}


def test_bootstrap_logs_roles_and_subnet_are_the_deployments(deployment: Settings, repo: Path) -> None:
    settings = replace(
        deployment,
        subnet_ids=("subnet-1", "subnet-2"),
        service_role="R",
        instance_profile="P",
        security_configuration="imdsv2",
    )
    request = job_flow.build_request(settings, shapes.load_shape(repo, "small"), "r1", *URIS)
    assert request["LogUri"] == "s3://b-1/runs/r1/logs/"
    (action,) = request["BootstrapActions"]
    assert action["ScriptBootstrapAction"] == {"Path": URIS[1], "Args": [URIS[2]]}
    assert (request["ServiceRole"], request["JobFlowRole"]) == ("R", "P")
    assert request["SecurityConfiguration"] == "imdsv2"
    assert request["Instances"]["Ec2SubnetId"] == "subnet-1"
    fleets = job_flow.build_request(settings, shapes.load_shape(repo, "standard"), "r1", *URIS)
    assert fleets["Instances"]["Ec2SubnetIds"] == ["subnet-1", "subnet-2"]


# The shapes that are there


@cache
def aws_data(path: str) -> Any:
    """AWS's own description of EC2, as moto keeps it."""
    file = Path(moto.__file__).parent / "ec2" / "resources" / f"{path}.json.gz"
    return json.loads(gzip.decompress(file.read_bytes()))


def test_the_driver_runs_on_demand_in_every_shape(repo: Path) -> None:
    for name in shapes.shape_names(repo):
        primary = [nodes for nodes in shapes.load_shape(repo, name).nodes if nodes.role == "MASTER"]
        assert [(nodes.market, nodes.units) for nodes in primary] == [("ON_DEMAND", 1)]


@pytest.mark.parametrize(("name", "architecture"), [("standard", "x86_64"), ("graviton", "arm64")])
def test_the_fleet_shapes_buy_task_nodes_as_spot_of_many_types(
    repo: Path, name: str, architecture: str
) -> None:
    shape = shapes.load_shape(repo, name)
    assert shape.architecture == architecture
    assert [(nodes.role, nodes.market) for nodes in shape.nodes] == [
        ("MASTER", "ON_DEMAND"),
        ("CORE", "ON_DEMAND"),
        ("TASK", "SPOT"),
    ]
    (task,) = (fleet for fleet in shape.instance_fleets if fleet["InstanceFleetType"] == "TASK")
    assert len(task["InstanceTypeConfigs"]) >= 5
    assert task["LaunchSpecifications"]["SpotSpecification"] == {
        "TimeoutDurationMinutes": 15,
        "TimeoutAction": "SWITCH_TO_ON_DEMAND",
        "AllocationStrategy": "price-capacity-optimized",
    }
    assert shape.spark_defaults["spark.decommission.enabled"] == "true"


def test_instance_types_are_those_that_aws_has_where_the_pipeline_runs_by_default(repo: Path) -> None:
    offered = {entry["InstanceType"] for entry in aws_data(f"instance_type_offerings/region/{REGION}")}
    for name in shapes.shape_names(repo):
        shape = shapes.load_shape(repo, name)
        for instance_type in {instance_type for nodes in shape.nodes for instance_type in nodes.weights}:
            described = aws_data("instance_types")[instance_type]
            assert instance_type in offered
            assert shape.architecture in described["ProcessorInfo"]["SupportedArchitectures"]
            assert described["VCpuInfo"]["DefaultVCpus"] == vcpus(instance_type) == 4
            assert described["MemoryInfo"]["SizeInMiB"] >= 16 * 1024


def test_an_architecture_is_told_by_the_name_of_the_family() -> None:
    for name, described in aws_data("instance_types").items():
        if not name.startswith("mac"):  # no EMR there
            assert architecture_of(name) in described["ProcessorInfo"]["SupportedArchitectures"], name


def test_vcpus_are_told_by_the_name_of_the_size() -> None:
    for name, described in aws_data("instance_types").items():
        if name.startswith(("c5", "c6", "c7", "m5", "m6", "m7", "r5", "r6", "r7")) and vcpus(name):
            assert vcpus(name) == described["VCpuInfo"]["DefaultVCpus"], name


def test_executors_fill_the_workers_and_leave_room_for_the_application_master(repo: Path) -> None:
    for name in shapes.shape_names(repo):
        shape = shapes.load_shape(repo, name)
        spark = shape.spark_defaults
        workers = sum(nodes.units for nodes in shape.nodes if nodes.role != "MASTER")
        executors = spark.get("spark.executor.instances", spark.get("spark.dynamicAllocation.maxExecutors"))
        assert (int(executors or 0), spark["spark.executor.cores"]) == (workers, "4")
        assert shape.worker_cores == 4 * workers
        gigabytes = [
            int(spark[f"spark.executor.{key}"].removesuffix("g")) for key in ("memory", "memoryOverhead")
        ]
        assert sum(gigabytes) * 1024 + MASTER_MB <= YARN_MB


def test_the_notebook_shape_keeps_notebooks_in_the_bucket_and_is_not_in_the_features_form(
    deployment: Settings, repo: Path
) -> None:
    assert "notebook" not in shapes.descriptions(repo)
    assert "notebook" in shapes.descriptions(repo, shapes.NOTEBOOKS)
    shape = shapes.load_shape(repo, "notebook")
    assert {"JupyterHub", "Livy", "Spark"} <= set(shape.applications)
    request = job_flow.build_request(deployment, shape, "r1", *URIS)
    assert properties(request, "jupyter-s3-conf") == {
        "s3.persistence.enabled": "true",
        "s3.persistence.bucket": "b-1",
    }
    assert shape.idle_timeout_seconds > shapes.load_shape(repo, "small").idle_timeout_seconds


# Refusals


def test_an_unknown_shape_is_refused_with_those_that_there_are(repo: Path) -> None:
    with pytest.raises(JobError, match=r"unknown cluster shape 'tiny'; expected one of .*small"):
        shapes.load_shape(repo, "tiny")


def test_neither_the_shared_classifications_nor_the_schema_are_shapes(repo: Path) -> None:
    assert not {"classifications", "schema"} & set(shapes.shape_names(repo))


MASTER, CORE = group("MASTER"), group("CORE", InstanceCount=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"idle_timeout_seconds": 59}, "idle_timeout_seconds is 59: give whole seconds, 60 to 604800"),
        ({"idle_timeout_seconds": 604_801}, "idle_timeout_seconds is 604801: give whole seconds, 60 to"),
        ({"idle_timeout_seconds": "900"}, 'idle_timeout_seconds is "900": give whole seconds'),
        ({"idle_timeout_seconds": 900.0}, "idle_timeout_seconds is 900.0: give whole seconds"),
        ({"worker_cores": 0}, "worker_cores is 0: give the number of vCPUs"),
        ({"worker_cores": 9}, "worker_cores is 9, but spark_defaults has 2 executors of 4 cores: give 8"),
        ({"ebs_gb": 2000}, "ebs_gb is 2000: give the size of each node's gp3 volume in GiB, 10 to 1024"),
        ({"purpose": "fun"}, 'purpose is "fun": give "features"'),
        ({"release_label": "emr-6.15.0"}, 'release_label is "emr-6.15.0": give a release of EMR 7'),
        ({"architecture": "arm64"}, r'instance_groups\[0\].InstanceType is "m5.xlarge", which is x86_64'),
        ({"applications": ["Hive"]}, r'applications is \["Hive"\]: give names of EMR applications.*"Spark"'),
        ({"applications": ["Spark 3"]}, r'applications\[0\] is "Spark 3": give the name of an EMR'),
        ({"instance_groups": [MASTER]}, "instance_groups is .*: give 2 to 50 groups"),
        ({"instance_groups": [MASTER, MASTER]}, "instance_groups is .*: give exactly one MASTER group"),
        ({"instance_groups": [MASTER, CORE, CORE]}, "instance_groups is .*: give exactly one CORE group"),
        ({"instance_groups": "two"}, 'instance_groups is "two": give 2 to 50 groups'),
        ({"instance_groups": ["M", "C"]}, r'instance_groups\[0\] is "M": give a group as in RunJobFlow'),
        (
            {"instance_groups": [group("MASTER", Market="SPOT"), CORE]},
            r'instance_groups\[0\].Market is "SPOT": give ON_DEMAND: the driver runs on the primary node',
        ),
        (
            {"instance_groups": [group("MASTER", InstanceCount=3), CORE]},
            r"instance_groups\[0\].InstanceCount is 3: give 1",
        ),
        (
            {"instance_groups": [MASTER, group("CORE", InstanceType="m5 xlarge")]},
            r'instance_groups\[1\].InstanceType is "m5 xlarge": give an EC2 instance type',
        ),
        (
            {"instance_groups": [MASTER, group("CORE", EbsConfiguration={})]},
            r"instance_groups\[1\].EbsConfiguration is not a field: remove it, or use one of Name, Instance",
        ),
        ({"instance_fleets": [fleet("MASTER"), fleet("CORE")]}, "give either instance_groups or instance_f"),
        ({"spark_defaults": None}, "spark_defaults is null: give an object of settings"),
        ({"spark_defaults": {"spark.executor.cores": 4}}, "spark_defaults.spark.executor.cores is 4: give a"),
        ({"spark_defaults": {}}, "spark_defaults has no spark.executor.instances: give it, because dynamic"),
        (
            {"spark_defaults": {"spark.executor.instances": "two", "spark.executor.cores": "4"}},
            'spark.executor.instances is "two": give a whole number as a string',
        ),
        (
            {"classifications": [{"Classification": "spark-defaults"}]},
            r'classifications\[0\].Classification is "spark-defaults": .* goes into spark_defaults',
        ),
        (
            {"classifications": [{"Classification": "hdfs-site"}] * 2},
            'classifications has "hdfs-site" twice: merge its properties',
        ),
        (
            {"classifications": [{"Classification": "x", "Properties": {"dir": "s3://{buckets}/"}}]},
            r'classifications\[0\].Properties.dir is "s3://\{buckets\}/": \{buckets\} is unknown',
        ),
        ({"colour": "red"}, "colour is not a field: remove it, or use one of description, purpose,"),
    ],
)
def test_a_shape_at_fault_is_refused_by_file_field_value_and_remedy(
    home: Path, fields: dict[str, Any], message: str
) -> None:
    change(home, **fields)
    with pytest.raises(JobError, match=rf"emr_configs/small\.json: .*{message}"):
        shapes.load_shape(home, "small")


@pytest.mark.parametrize(
    ("fleets", "message"),
    [
        ([fleet("MASTER")], "instance_fleets is .*: give 2 or 3 fleets"),
        ([fleet("MASTER"), fleet("TASK")], "instance_fleets is .*: give exactly one CORE fleet"),
        (
            [fleet("MASTER", **spot()), fleet("CORE")],
            r"instance_fleets\[0\].TargetSpotCapacity is 2: give 0: the driver runs on the primary node",
        ),
        (
            [fleet("MASTER", TargetOnDemandCapacity=2), fleet("CORE")],
            r"instance_fleets\[0\].TargetOnDemandCapacity is 2: give 1",
        ),
        (
            [fleet("MASTER"), fleet("CORE", TargetOnDemandCapacity=0)],
            r"instance_fleets\[1\] is .*: give TargetOnDemandCapacity or TargetSpotCapacity of at least 1",
        ),
        (
            [fleet("MASTER"), fleet("CORE", TargetSpotCapacity=1)],
            r"instance_fleets\[1\].LaunchSpecifications is missing: give a SpotSpecification",
        ),
        (
            [fleet("MASTER"), fleet("CORE", **spot(TimeoutDurationMinutes=4))],
            "TimeoutDurationMinutes is 4: give the minutes to try for Spot nodes, 5 to 1440",
        ),
        (
            [fleet("MASTER"), fleet("CORE", **spot(TimeoutDurationMinutes=1441))],
            "SpotSpecification.TimeoutDurationMinutes is 1441: give the minutes",
        ),
        (
            [fleet("MASTER"), fleet("CORE", **spot(TimeoutAction="WAIT"))],
            'SpotSpecification.TimeoutAction is "WAIT": give SWITCH_TO_ON_DEMAND or TERMINATE_CLUSTER',
        ),
        (
            [fleet("MASTER"), fleet("CORE", InstanceTypeConfigs=[{"InstanceType": "m5.xlarge"}] * 31)],
            r"instance_fleets\[1\].InstanceTypeConfigs is .*: give 1 to 30 instance types",
        ),
        (
            [fleet("MASTER"), fleet("CORE", InstanceTypeConfigs=[{"InstanceType": "m5.xlarge"}] * 2)],
            r'instance_fleets\[1\].InstanceTypeConfigs has "m5.xlarge" twice: give each type once',
        ),
        (
            [fleet("MASTER"), fleet("CORE", InstanceTypeConfigs=[{"InstanceType": "m7g.xlarge"}])],
            r'\[1\].InstanceTypeConfigs\[0\].InstanceType is "m7g.xlarge", which is arm64',
        ),
    ],
)
def test_a_fleet_at_fault_is_refused_by_file_field_value_and_remedy(
    home: Path, fleets: list[dict[str, Any]], message: str
) -> None:
    change(home, "standard", instance_fleets=fleets)
    with pytest.raises(JobError, match=rf"emr_configs/standard\.json: .*{message}"):
        shapes.load_shape(home, "standard")


def test_all_faults_of_a_shape_are_told_at_once(home: Path) -> None:
    change(home, worker_cores=0, ebs_gb=1)
    with pytest.raises(JobError, match=r"ebs_gb is 1: .*; worker_cores is 0: "):
        shapes.load_shape(home, "small")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", r"the shape is \[\]: give an object with the fields"),
        ("{}", "description is missing: give a line for the form.*; purpose is missing: give"),
    ],
)
def test_a_file_that_is_no_shape_is_refused_by_name(home: Path, text: str, message: str) -> None:
    (home / "emr_configs" / "small.json").write_text(text)
    with pytest.raises(JobError, match=rf"small\.json.*{message}"):
        shapes.load_shape(home, "small")
