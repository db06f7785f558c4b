"""The EMR cluster of a run: its request from a shape, and finding it again by its tag.

    python -m fruit_pipeline.cluster --run s3://bucket/runs/r1 --wheelhouse s3://bucket/wheelhouse/<digest>

prints the request as JSON for `aws emr run-job-flow --cli-input-json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fruit_pipeline import limits, shape_check
from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from image_features.storage import join_uri

RUN_TAG = "image-features-run"
"""Tag whose value is the run key; teardown and retries find a run's clusters by it."""

DAG_RUN_TAG = "image-features-dag-run"
"""Tag whose value is the id of the DAG run that made the cluster, as key_of writes it."""

PROJECT_TAG, PROJECT = "project", "image-features"
"""Tag that all clusters carry: what they cost is found by it, once it is a cost allocation tag."""

OWNER_TAG = "owner"

EMR_TAG = "for-use-with-amazon-emr-managed-policies"
"""Tag that lets AmazonEMRServicePolicy_v2 act on the cluster's resources."""

EVENT_LOGS = "spark-events"
"""Folder of Spark's event logs below the log URI, as in `classifications.json`."""

EVENT_LOGS_MARKER = f"{EVENT_LOGS}/.keep"
"""An empty object to put below the log URI: Spark refuses a folder that does not exist."""

BOOTSTRAP = "python environment"
"""Name of the bootstrap action."""

FEATURES, NOTEBOOKS = "features", "notebooks"

ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
TERMINAL = ["TERMINATED", "TERMINATED_WITH_ERRORS"]
ENDING = ["TERMINATING", *TERMINAL]

_NO_SHAPES = ("classifications", "schema")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one role that are bought one way.

    ``units`` are wanted, of types that count ``weights[type]`` units each. A group has one type of
    weight 1; from a fleet's types EMR chooses.
    """

    role: str  # MASTER, CORE or TASK
    market: str  # ON_DEMAND or SPOT
    units: int
    weights: Mapping[str, int]


@dataclass(frozen=True)
class Shape:
    """A file of `emr_configs`; its README explains the fields."""

    description: str
    purpose: str
    release_label: str
    architecture: str
    applications: list[str]
    worker_cores: int
    idle_timeout_seconds: int
    ebs_gb: int
    spark_defaults: dict[str, str]
    classifications: list[dict[str, Any]] = field(default_factory=list)
    instance_groups: list[dict[str, Any]] = field(default_factory=list)
    instance_fleets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def nodes(self) -> list[Nodes]:
        """What is bought, as groups and fleets alike say it."""
        found = [
            Nodes(group["InstanceRole"], group["Market"], group["InstanceCount"], {group["InstanceType"]: 1})
            for group in self.instance_groups
        ]
        for fleet in self.instance_fleets:
            weights = {
                config["InstanceType"]: config.get("WeightedCapacity", 1)
                for config in fleet["InstanceTypeConfigs"]
            }
            for market, target in (("ON_DEMAND", "TargetOnDemandCapacity"), ("SPOT", "TargetSpotCapacity")):
                if fleet.get(target):
                    found.append(Nodes(fleet["InstanceFleetType"], market, fleet[target], weights))
        return found


def load_shape(home: Path, name: str) -> Shape:
    """Read and check ``emr_configs/<name>.json``. Raises JobError: file, field, value, what to do."""
    known = shape_names(home)
    if name not in known:
        raise JobError(f"unknown cluster shape {name!r}; expected one of {', '.join(known)}")
    path = shape_file(home, name)
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise JobError(f"{path} is no JSON: {error}") from error
    return shape_of(values, home, path)


def shape_of(values: Any, home: Path, path: Path) -> Shape:
    """The shape that ``path`` holds or shall hold. Raises JobError as above."""
    shape_check.check(path, values, home / "emr_configs" / "schema.json")
    return Shape(**{name: value for name, value in values.items() if name != "$schema"})


def shape_file(home: Path, name: str) -> Path:
    return home / "emr_configs" / f"{name}.json"


def shape_names(home: Path) -> list[str]:
    """Names of the shapes. Raises JobError when there is none."""
    folder = home / "emr_configs"
    names = sorted(path.stem for path in folder.glob("*.json") if path.stem not in _NO_SHAPES)
    if not names:
        raise JobError(f"{folder} has no cluster shape; set FRUITS_HOME to the folder of emr_configs")
    return names


def descriptions(home: Path, purpose: str = FEATURES) -> dict[str, str]:
    """Name and description of every shape for ``purpose``, for a form."""
    shapes = {name: load_shape(home, name) for name in shape_names(home)}
    return {name: shape.description for name, shape in shapes.items() if shape.purpose == purpose}


def name_of(run_key: str) -> str:
    return f"image-features {run_key}"


def build_request(
    settings: Settings,
    shape: Shape,
    run_key: str,
    log_uri: str,
    bootstrap_uri: str,
    wheelhouse_uri: str,
    more_tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The ``RunJobFlow`` request of a run. Raises JobError when it breaks a limit of EMR.

    The cluster stays up without steps, since they are added one by one; the idle timeout ends it
    when nobody is left to do so.
    """
    tags = {
        RUN_TAG: run_key,
        PROJECT_TAG: PROJECT,
        OWNER_TAG: settings.owner,
        EMR_TAG: "true",
        **(more_tags or {}),
    }
    request = {
        "Name": name_of(run_key),
        "ReleaseLabel": shape.release_label,
        "LogUri": f"{log_uri}/",
        "Applications": [{"Name": name} for name in shape.applications],
        "Instances": {
            **_hardware(shape),
            **_subnets(settings, shape),
            "KeepJobFlowAliveWhenNoSteps": True,
            "TerminationProtected": False,
        },
        "Configurations": _configurations(settings, shape, log_uri),
        "BootstrapActions": [
            {
                "Name": BOOTSTRAP,
                "ScriptBootstrapAction": {"Path": bootstrap_uri, "Args": [wheelhouse_uri]},
            }
        ],
        "AutoTerminationPolicy": {"IdleTimeout": shape.idle_timeout_seconds},
        "ServiceRole": settings.service_role,
        "JobFlowRole": settings.instance_profile,
        "VisibleToAllUsers": True,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items() if value],
    }
    if settings.security_configuration:
        request["SecurityConfiguration"] = settings.security_configuration
    limits.check_cluster(request)
    return request


def _hardware(shape: Shape) -> dict[str, Any]:
    """Groups or fleets, each node with its gp3 volume."""
    volume = {"VolumeType": "gp3", "SizeInGB": shape.ebs_gb}
    ebs = {
        "EbsConfiguration": {
            "EbsBlockDeviceConfigs": [{"VolumeSpecification": volume, "VolumesPerInstance": 1}]
        }
    }
    if shape.instance_groups:
        return {"InstanceGroups": [{**group, **ebs} for group in shape.instance_groups]}
    fleets = [
        {**fleet, "InstanceTypeConfigs": [{**config, **ebs} for config in fleet["InstanceTypeConfigs"]]}
        for fleet in shape.instance_fleets
    ]
    return {"InstanceFleets": fleets}


def _subnets(settings: Settings, shape: Shape) -> dict[str, Any]:
    """Among several subnets EMR chooses for fleets; groups go to the first."""
    if not settings.subnet_ids:
        return {}
    if shape.instance_groups:
        return {"Ec2SubnetId": settings.subnet_ids[0]}
    return {"Ec2SubnetIds": list(settings.subnet_ids)}


def _configurations(settings: Settings, shape: Shape, log_uri: str) -> list[dict[str, Any]]:
    """The shared classifications with the shape's own, placeholders filled in."""
    shared = json.loads((settings.home / "emr_configs" / "classifications.json").read_text())
    spark = {"Classification": "spark-defaults", "Properties": shape.spark_defaults}
    values = {
        "region": settings.region,
        "bucket": log_uri.removeprefix("s3://").partition("/")[0],
        "logs": log_uri,
    }
    assert set(values) == set(shape_check.PLACEHOLDERS)
    return _filled(_merged(shared, [spark, *shape.classifications]), values)


def _merged(shared: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both lists, each classification once; where both set a property, ``own`` wins."""
    found = {item["Classification"]: item for item in shared}
    for item in own:
        name = item["Classification"]
        before = found.get(name, {})
        merged: dict[str, Any] = {"Classification": name}
        if properties := {**before.get("Properties", {}), **item.get("Properties", {})}:
            merged["Properties"] = properties
        if inner := _merged(before.get("Configurations", []), item.get("Configurations", [])):
            merged["Configurations"] = inner
        found[name] = merged
    return list(found.values())


def _filled(value: Any, values: Mapping[str, str]) -> Any:
    """``value`` with ``{name}`` replaced in every string below it."""
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {key: _filled(item, values) for key, item in value.items()}
    return [_filled(item, values) for item in value]


def alive_of_run(emr: Any, run_key: str, *, ending: bool = False, dag_run: str | None = None) -> list[str]:
    """Ids of the living clusters that carry the run's tag, newest first; ``ending``: dying ones as well.

    With ``dag_run``, those that another DAG run has made are left out.
    """
    found = []
    states = [*ALIVE, "TERMINATING"] if ending else ALIVE
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=states):
        for cluster in page["Clusters"]:
            if cluster["Name"] == name_of(run_key):
                answer = emr.describe_cluster(ClusterId=cluster["Id"])["Cluster"]
                tags = {tag["Key"]: tag["Value"] for tag in answer.get("Tags", [])}
                others = dag_run and tags.get(DAG_RUN_TAG, dag_run) != dag_run
                if tags.get(RUN_TAG) == run_key and not others:
                    found.append(cluster["Id"])
    return found


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import cli, settings

    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, metavar="URI", help="s3://<bucket>/runs/<run key>")
    parser.add_argument("--wheelhouse", required=True, metavar="URI", help="from fruit_pipeline.wheelhouse")
    parser.add_argument("--shape", default="small", help="default: %(default)s")
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        deployment = settings.load()
        return build_request(
            deployment,
            load_shape(deployment.home, args.shape),
            args.run.rstrip("/").rpartition("/")[2],
            join_uri(args.run, "logs"),
            join_uri(args.run, "code", "install.sh"),
            args.wheelhouse,
        )

    args.json = True  # the request is for a machine in any case
    return cli.run(run, args)


if __name__ == "__main__":
    sys.exit(main())
