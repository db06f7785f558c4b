"""Events on EventBridge for changes of state, in the form of EMR's own events."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

from moto.events.models import events_backends

log = logging.getLogger(__name__)

CLUSTER_STATES = ("STARTING", "RUNNING", "WAITING", "TERMINATED", "TERMINATED_WITH_ERRORS")
ERROR_STATES = ("TERMINATED_WITH_ERRORS", "FAILED")


def publish(account: str, region: str, cluster: dict[str, Any], step: dict[str, Any] | None) -> None:
    """Puts one event on the default bus of moto's EventBridge; logs a failure to do so.

    ``cluster`` is a ClusterSummary of the API, ``step`` a Step for an event of a step.
    """
    state = (step or cluster)["Status"]["State"]
    if step is None and state not in CLUSTER_STATES:
        return
    detail = _step_detail(cluster, step) if step else _cluster_detail(cluster)
    event = {
        "Source": "aws.emr",
        "DetailType": "EMR Step Status Change" if step else "EMR Cluster State Change",
        "Detail": json.dumps(
            {"severity": "ERROR" if state in ERROR_STATES else "INFO", "state": state, **detail}
        ),
        "Time": time.time(),
    }
    try:
        events_backends[account][region].put_events([event])
    except Exception:  # a missing target of a rule must not end the cluster
        log.exception("an event of %s was not delivered", cluster["Id"])


def _cluster_detail(cluster: dict[str, Any]) -> dict[str, Any]:
    reason = cluster["Status"]["StateChangeReason"]
    return {
        "name": cluster["Name"],
        "clusterId": cluster["Id"],
        "stateChangeReason": json.dumps(
            {"code": reason.get("Code", ""), "message": reason.get("Message", "")}
        ),
        "message": f"Amazon EMR Cluster {cluster['Id']} ({cluster['Name']}) is in state "
        f"{cluster['Status']['State']} at {_now()}: {reason.get('Message', '')}",
    }


def _step_detail(cluster: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": step["Name"],
        "stepId": step["Id"],
        "clusterId": cluster["Id"],
        "actionOnFailure": step["ActionOnFailure"],
        "message": f"Step {step['Id']} ({step['Name']}) of Amazon EMR Cluster {cluster['Id']} "
        f"({cluster['Name']}) is in state {step['Status']['State']} at {_now()}.",
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
