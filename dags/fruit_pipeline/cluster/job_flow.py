"""The ``RunJobFlow`` request of a run's EMR cluster, built from a shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fruit_pipeline.aws.clusters import EMR_TAG, OWNER_TAG, PROJECT, PROJECT_TAG, RUN_TAG, name_of
from fruit_pipeline.cluster import emr_limits, shape_schema
from fruit_pipeline.cluster.shapes import Shape
from fruit_pipeline.settings import Settings

EVENT_LOGS = "spark-events"
"""Folder of Spark's event logs below the log URI, as in `classifications.json`."""

EVENT_LOGS_MARKER = f"{EVENT_LOGS}/.keep"
"""Key of an empty object below the log URI: Spark refuses a folder that does not exist."""

BOOTSTRAP = "python environment"
"""Name of the bootstrap action."""


def build_request(
    settings: Settings,
    shape: Shape,
    run_key: str,
    log_uri: str,
    bootstrap_uri: str,
    wheelhouse_uri: str,
    more_tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The ``RunJobFlow`` request of a run. Raises JobError when it exceeds a limit of EMR.

    The cluster stays up without steps, because they are added one by one. The idle timeout ends it
    when the DAG does not.
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
    emr_limits.check_job_flow(request)
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
    """Of several subnets EMR chooses one for fleets; groups use the first."""
    if not settings.subnet_ids:
        return {}
    if shape.instance_groups:
        return {"Ec2SubnetId": settings.subnet_ids[0]}
    return {"Ec2SubnetIds": list(settings.subnet_ids)}


def _configurations(settings: Settings, shape: Shape, log_uri: str) -> list[dict[str, Any]]:
    """The shared classifications merged with the shape's own, with values for the placeholders."""
    shared = json.loads((settings.home / "emr_configs" / "classifications.json").read_text())
    spark = {"Classification": "spark-defaults", "Properties": shape.spark_defaults}
    values = {
        "region": settings.region,
        "bucket": log_uri.removeprefix("s3://").partition("/")[0],
        "logs": log_uri,
    }
    assert set(values) == set(shape_schema.PLACEHOLDERS)
    return _fill(_merge(shared, [spark, *shape.classifications]), values)


def _merge(shared: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge both lists, each classification once; where both set a property, ``own`` takes precedence."""
    by_name = {item["Classification"]: item for item in shared}
    for item in own:
        name = item["Classification"]
        base = by_name.get(name, {})
        merged: dict[str, Any] = {"Classification": name}
        if properties := {**base.get("Properties", {}), **item.get("Properties", {})}:
            merged["Properties"] = properties
        if inner := _merge(base.get("Configurations", []), item.get("Configurations", [])):
            merged["Configurations"] = inner
        by_name[name] = merged
    return list(by_name.values())


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    """``value`` with ``{name}`` replaced in every string below it."""
    if isinstance(value, str):
        for name, text in values.items():
            value = value.replace(f"{{{name}}}", text)
        return value
    if isinstance(value, dict):
        return {key: _fill(item, values) for key, item in value.items()}
    return [_fill(item, values) for item in value]
