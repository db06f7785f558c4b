"""Plan of a notebook cluster: its Params, its end, and the request that creates it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import job_code, job_flow, wheelhouse
from fruit_pipeline.cluster import shapes as cluster_shapes
from fruit_pipeline.housekeeping import stored_runs
from fruit_pipeline.run.params import ParamSpec
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.storage import join_uri

DEFAULT_UNTIL = "8h"
LONGEST = timedelta(hours=24)

_OWNER = "[a-z0-9][a-z0-9-]{0,29}"
_UNTIL = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})|(?P<count>\d{1,4})(?P<unit>[hm])"

# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-jupyterhub-s3.html
_KEPT = "jupyter"


def param_specs(shapes: Mapping[str, str], owner: str | None, zone: ZoneInfo) -> dict[str, ParamSpec]:
    """The Params of the DAG by name.

    ``shapes``: descriptions of the notebook shapes by name. ``owner``, ``zone``: the deployment's.
    """
    return {
        "owner": ParamSpec(
            owner if owner and re.fullmatch(_OWNER, owner) else None,
            "Owner",
            "Cluster",
            "Who uses it: lower-case letters, digits and '-', 30 at most. One cluster per owner.",
            {"type": ["null", "string"], "pattern": f"^{_OWNER}$"},
        ),
        "shape": ParamSpec(
            next(iter(sorted(shapes)), ""),
            "Cluster shape",
            "Cluster",
            "; ".join(f"{name}: {text}" for name, text in sorted(shapes.items())),
            {"type": "string", "enum": sorted(shapes)},
        ),
        "until": ParamSpec(
            DEFAULT_UNTIL,
            "Until",
            "Cluster",
            f"When the cluster ends: a time of day such as 18:30 ({zone.key}), or a duration from now such "
            "as 3h or 90m; within 24 hours.",
            {"type": "string", "pattern": f"^({re.sub(r'[?]P<[a-z]+>', '', _UNTIL)})$"},
        ),
    }


def until_of(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The time that ``text`` means, in UTC. Raises JobError if it is not valid or not within 24 hours.

    A time of day means the next one in ``zone``.
    """
    match = re.fullmatch(_UNTIL, text.strip())
    if not match:
        raise JobError(f"until {text!r}: give a time of day such as 18:30, or a duration such as 3h or 90m")
    if match["unit"]:
        duration = timedelta(**{"hours" if match["unit"] == "h" else "minutes": int(match["count"])})
        if not timedelta(0) < duration <= LONGEST:
            raise JobError(f"until {text!r}: give 1m to 24h")
        return (now + duration).astimezone(UTC)
    try:
        hour = time(int(match["hour"]), int(match["minute"]), tzinfo=zone)
    except ValueError:
        raise JobError(f"until {text!r}: give a time of day, 00:00 to 23:59") from None
    today = now.astimezone(zone).date()
    until = datetime.combine(today, hour)
    if until <= now:
        until = datetime.combine(today + timedelta(days=1), hour)
    return until.astimezone(UTC)


def plan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check the Params and AWS, upload what the nodes need, and build the request for the cluster.

    Raises JobError if the owner has a cluster already. In the result, ``cluster`` is the request, ``until``
    an ISO time, and ``kept`` the prefix where the notebooks are saved, or None.
    """
    from fruit_pipeline.checks import preflight

    deployment = settings.load()
    aws = Aws.of_deployment(deployment)
    owner, bucket = str(params["owner"] or ""), deployment.bucket
    if not owner:
        raise JobError("no owner: set the Param 'owner', or FRUITS_OWNER for the deployment")
    if not bucket:
        raise JobError("no bucket: set FRUITS_BUCKET")
    until = until_of(params["until"], datetime.now(UTC), deployment.time_zone)
    shape = cluster_shapes.load_shape(deployment.home, params["shape"])
    preflight.check_region(deployment)
    preflight.check_bucket(bucket, deployment, aws)
    preflight.check_roles(deployment, aws)
    preflight.check_network(deployment, shape, aws)
    run_key = f"{stored_runs.NOTEBOOK}{owner}"
    alive = clusters.clusters_of_run(aws.client("emr"), run_key)
    if alive:
        raise JobError(
            f"{owner} has a notebook cluster already, {alive[0].id}: use it, or terminate it with "
            f"aws emr terminate-clusters --region {deployment.region} --cluster-ids {alive[0].id}"
        )
    layout = RunLayout(f"s3://{bucket}/{stored_runs.RUNS}/{run_key}")
    job_code.upload(deployment.home, aws.storage(layout.code))
    aws.storage(layout.logs).put(job_flow.EVENT_LOGS_MARKER, b"")
    requirements = deployment.home / "bootstrap" / wheelhouse.REQUIREMENTS
    wheels = wheelhouse.build(requirements, deployment.node_target, deployment.cache_dir)
    request = job_flow.build_request(
        deployment,
        shape,
        run_key,
        layout.logs,
        join_uri(layout.code, job_code.BOOTSTRAP_SCRIPT),
        wheelhouse.publish(wheels, aws.storage(f"s3://{bucket}/wheelhouse")),
        # The reaper ends the cluster at that time if Airflow does not.
        more_tags={clusters.UNTIL_TAG: until.isoformat(timespec="seconds")},
    )
    return {
        "owner": owner,
        "run_key": run_key,
        "until": until.isoformat(),
        "idle_seconds": shape.idle_timeout_seconds,
        "kept": f"s3://{bucket}/{_KEPT}/" if _keeps_notebooks(request) else None,
        "cluster": request,
    }


def _keeps_notebooks(request: Mapping[str, Any]) -> bool:
    return any(
        item["Classification"] == "jupyter-s3-conf"
        and item.get("Properties", {}).get("s3.persistence.enabled") == "true"
        for item in request["Configurations"]
    )
