"""Tells EventBridge of changes of state, in the form of EMR's own events."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

log = logging.getLogger(__name__)

TOLD_CLUSTER = ("STARTING", "RUNNING", "WAITING", "TERMINATED", "TERMINATED_WITH_ERRORS")
ERRORS = ("TERMINATED_WITH_ERRORS", "FAILED")


def publish(account: str, region: str, cluster: dict[str, Any], step: dict[str, Any] | None) -> None:
    """Puts one event on the default bus of moto's EventBridge; a fault there is logged, no more."""
    from moto.events.models import events_backends

    state = (step or cluster)["Status"]["State"]
    if step is None and state not in TOLD_CLUSTER:
        return
    detail = _step(cluster, step) if step else _cluster(cluster)
    event = {
        "Source": "aws.emr",
        "DetailType": "EMR Step Status Change" if step else "EMR Cluster State Change",
        "Detail": json.dumps({"severity": "ERROR" if state in ERRORS else "INFO", "state": state, **detail}),
        "Time": time.time(),
    }
    try:
        events_backends[account][region].put_events([event])
    except Exception:  # a rule's target that is gone must not take the cluster with it
        log.exception("event of %s not delivered", cluster["Id"])


def _cluster(cluster: dict[str, Any]) -> dict[str, Any]:
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


def _step(cluster: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
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
