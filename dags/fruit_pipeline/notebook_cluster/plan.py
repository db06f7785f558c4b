"""Clusters with JupyterHub: until when one lives, how one reaches it, and the wait for its end."""

from __future__ import annotations

import logging
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
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.storage import join_uri

log = logging.getLogger(__name__)

DEFAULT_UNTIL = "8h"
LONGEST = timedelta(hours=24)

_OWNER = "[a-z0-9][a-z0-9-]{0,29}"
_UNTIL = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})|(?P<count>\d{1,4})(?P<unit>[hm])"

# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-jupyterhub-s3.html
_KEPT = "jupyter"


def form(shapes: Mapping[str, str], owner: str | None, zone: ZoneInfo) -> dict[str, Any]:
    """The Params of the trigger form; ``owner`` is the deployment's."""
    from airflow.sdk import Param

    return {
        "owner": Param(
            owner if owner and re.fullmatch(_OWNER, owner) else None,
            type=["null", "string"],
            pattern=f"^{_OWNER}$",
            title="Owner",
            description="Who works on it: small letters, digits and '-', 30 at most. One cluster an owner.",
        ),
        "shape": Param(
            next(iter(sorted(shapes)), ""),
            type="string",
            enum=sorted(shapes),
            title="Cluster shape",
            description="; ".join(f"`{name}`: {text}" for name, text in sorted(shapes.items())),
        ),
        "until": Param(
            DEFAULT_UNTIL,
            type="string",
            pattern=f"^({_UNTIL.replace('?P<hour>', '').replace('?P<minute>', '')})$",
            title="Until",
            description=f"The cluster ends then: an hour of the day, such as `18:30` ({zone.key}), or a "
            "time from now, such as `3h` or `90m`; within 24 hours.",
        ),
    }


def until_of(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The moment that ``text`` means, in UTC. Raises JobError when it means none within a day.

    An hour of the day is the next one on the clocks of ``zone``.
    """
    match = re.fullmatch(_UNTIL, text.strip())
    if not match:
        raise JobError(f"until {text!r}: give an hour of the day such as 18:30, or a time such as 3h or 90m")
    if match["unit"]:
        left = timedelta(**{"hours" if match["unit"] == "h" else "minutes": int(match["count"])})
        if not timedelta(0) < left <= LONGEST:
            raise JobError(f"until {text!r}: give 1m to 24h")
        return (now + left).astimezone(UTC)
    try:
        hour = time(int(match["hour"]), int(match["minute"]), tzinfo=zone)
    except ValueError:
        raise JobError(f"until {text!r}: give an hour of the day, 00:00 to 23:59") from None
    today = now.astimezone(zone).date()
    found = datetime.combine(today, hour)
    return (found if found > now else datetime.combine(today + timedelta(days=1), hour)).astimezone(UTC)


def plan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check what was asked for, upload what the nodes need, and make the cluster's request.

    Raises JobError when the owner has a cluster already.
    """
    from fruit_pipeline.checks import preflight

    deployment = settings.load()
    aws = Aws.from_connection(deployment.aws_conn_id, deployment.region)
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
        # The reaper ends it then, should nobody be left to do so.
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
