"""The EMR cluster of a run: its request from a shape, and finding it again by its tag.

    python -m fruit_pipeline.cluster --run s3://bucket/runs/r1 --wheelhouse s3://bucket/wheelhouse/<digest>

prints the request as JSON for `aws emr run-job-flow --cli-input-json`.

Exit codes: 0 done, 2 bad input (one line on stderr).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from image_features.storage import join_uri

RUN_TAG = "image-features-run"
"""Tag whose value is the run key; teardown and retries find a run's clusters by it."""

ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
TERMINAL = ["TERMINATED", "TERMINATED_WITH_ERRORS"]
ENDING = ["TERMINATING", *TERMINAL]

# https://docs.aws.amazon.com/emr/latest/APIReference/API_AutoTerminationPolicy.html
_IDLE_TIMEOUT_RANGE = (60, 604_800)


@dataclass(frozen=True)
class Shape:
    """A file of `emr_configs`; its README explains the fields."""

    description: str
    release_label: str
    worker_cores: int
    idle_timeout_seconds: int
    instance_groups: list[dict[str, Any]]
    spark_defaults: dict[str, str]


_KINDS = {
    "description": str,
    "release_label": str,
    "worker_cores": int,
    "idle_timeout_seconds": int,
    "instance_groups": list,
    "spark_defaults": dict,
}


def load_shape(home: Path, name: str) -> Shape:
    """Read and check ``emr_configs/<name>.json``. Raises JobError that names file and field."""
    path = home / "emr_configs" / f"{name}.json"
    known = shape_names(home)
    if name not in known:
        raise JobError(f"unknown cluster shape {name!r}; expected one of {', '.join(known)}")
    try:
        shape = Shape(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        expected = ", ".join(field.name for field in fields(Shape))
        raise JobError(f"{path} is no cluster shape (fields: {expected}): {error}") from error
    for field, kind in _KINDS.items():
        if not isinstance(getattr(shape, field), kind):
            raise JobError(f"{path}: {field} must be of type {kind.__name__}")
    low, high = _IDLE_TIMEOUT_RANGE
    if not low <= shape.idle_timeout_seconds <= high:
        raise JobError(f"{path}: idle_timeout_seconds must lie in {low} to {high}")
    roles = [group.get("InstanceRole") for group in shape.instance_groups if isinstance(group, dict)]
    if roles.count("MASTER") != 1 or roles.count("CORE") != 1:
        raise JobError(f"{path}: instance_groups must hold one MASTER and one CORE group")
    if shape.worker_cores < 1:
        raise JobError(f"{path}: worker_cores must be at least 1")
    return shape


def shape_names(home: Path) -> list[str]:
    """Names of the shapes. Raises JobError when there is none."""
    folder = home / "emr_configs"
    names = sorted(path.stem for path in folder.glob("*.json") if path.stem != "classifications")
    if not names:
        raise JobError(f"{folder} has no cluster shape; set FRUITS_HOME to the folder of emr_configs")
    return names


def descriptions(home: Path) -> dict[str, str]:
    """Every shape's name and description, for the form."""
    return {name: load_shape(home, name).description for name in shape_names(home)}


def name_of(run_key: str) -> str:
    return f"image-features {run_key}"


def build_request(
    settings: Settings, shape: Shape, run_key: str, log_uri: str, bootstrap_uri: str, wheelhouse_uri: str
) -> dict[str, Any]:
    """The ``RunJobFlow`` request of a run.

    The cluster stays up without steps, since they are added one by one; the idle timeout ends it
    when nobody is left to do so.
    """
    instances: dict[str, Any] = {
        "InstanceGroups": shape.instance_groups,
        "KeepJobFlowAliveWhenNoSteps": True,
        "TerminationProtected": False,
    }
    if settings.subnet_id:
        instances["Ec2SubnetId"] = settings.subnet_id
    return {
        "Name": name_of(run_key),
        "ReleaseLabel": shape.release_label,
        "LogUri": f"{log_uri}/",
        "Applications": [{"Name": "Spark"}],
        "Instances": instances,
        "Configurations": _configurations(settings, shape),
        "BootstrapActions": [
            {
                "Name": "python environment",
                "ScriptBootstrapAction": {"Path": bootstrap_uri, "Args": [wheelhouse_uri]},
            }
        ],
        "AutoTerminationPolicy": {"IdleTimeout": shape.idle_timeout_seconds},
        "ServiceRole": settings.service_role,
        "JobFlowRole": settings.instance_profile,
        "VisibleToAllUsers": True,
        "Tags": [
            {"Key": RUN_TAG, "Value": run_key},
            # Lets AmazonEMRServicePolicy_v2 act on the cluster's resources.
            {"Key": "for-use-with-amazon-emr-managed-policies", "Value": "true"},
        ],
    }


def _configurations(settings: Settings, shape: Shape) -> list[dict[str, Any]]:
    text = (settings.home / "emr_configs" / "classifications.json").read_text()
    shared: list[dict[str, Any]] = json.loads(text.replace("{region}", settings.region))
    for classification in shared:
        if classification["Classification"] == "spark-defaults":
            classification["Properties"].update(shape.spark_defaults)
    return shared


def alive_of_run(emr: Any, run_key: str, *, ending: bool = False) -> list[str]:
    """Ids of the living clusters that carry the run's tag, newest first; ``ending``: dying ones as well."""
    found = []
    states = [*ALIVE, "TERMINATING"] if ending else ALIVE
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=states):
        for cluster in page["Clusters"]:
            if cluster["Name"] == name_of(run_key):
                tags = emr.describe_cluster(ClusterId=cluster["Id"])["Cluster"].get("Tags", [])
                if {"Key": RUN_TAG, "Value": run_key} in tags:
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
