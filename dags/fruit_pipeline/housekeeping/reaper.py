"""Finds the living clusters that nobody waits for any more, and terminates them where that is allowed.

A cluster is judged by itself, not by the runs that Airflow knows: one that another Airflow or a
person at the command line started is no orphan, and the worst leak is that of an Airflow that is
gone. Ours are those that carry the tag of a run. Nobody waits for one

- whose tag `image-features-until` names a moment that has passed (notebook clusters carry it);
- without that tag: that is older than `FRUITS_REAP_HOURS`, which must be more than the longest run
  takes;
- without that tag: that has had no step to run for an hour longer than its own idle timeout, which
  should have ended it. Between two steps of a run lie seconds.

One that somebody protected against termination is reported and left alone. Work that is no step
(a shell on the primary node) does not count: protect such a cluster, or give it the tag.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fruit_pipeline.aws import clock
from fruit_pipeline.aws.clusters import ALIVE, RUN_TAG
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.notify.texts import Words

log = logging.getLogger(__name__)

UNTIL_TAG = "image-features-until"
"""Tag whose value is an ISO time with its offset; from then on nobody needs the cluster."""

_IDLE_GRACE = timedelta(hours=1)
_BUSY_STEPS = ["PENDING", "RUNNING", "CANCEL_PENDING"]

# Why nobody waits for a cluster.
UNTIL, AGE, IDLE = "until", "age", "idle"


@dataclass(frozen=True)
class Living:
    """A cluster that carries a run's tag and is alive."""

    cluster_id: str
    run_key: str
    state: str
    created: datetime
    protected: bool
    until: datetime | None = None
    idle_since: datetime | None = None  # None while it starts or has a step to run
    idle_timeout: timedelta = timedelta(0)  # its own; 0 when it has none

    def age(self, now: datetime) -> timedelta:
        return now - self.created

    def orphaned_by(self, now: datetime, limit: timedelta) -> str | None:
        """UNTIL, AGE or IDLE when nobody waits for it any more; ``limit`` is of its age."""
        if self.until:
            return UNTIL if now >= self.until else None
        if self.age(now) > limit:
            return AGE
        if self.idle_since and now - self.idle_since > self.idle_timeout + _IDLE_GRACE:
            return IDLE
        return None


@dataclass(frozen=True)
class Orphan:
    """A cluster that nobody waits for, and what became of it; ``error`` when AWS would not end it.

    ``seen``: when it was found, by AWS's clock.
    """

    cluster: Living
    reason: str
    terminated: bool = False
    error: str = ""
    seen: datetime = field(default_factory=lambda: datetime.now(UTC))


def living(emr: Any) -> list[Living]:
    """Every living cluster that carries a run's tag, the oldest first."""
    found = []
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=ALIVE):
        for listed in page["Clusters"]:
            described = emr.describe_cluster(ClusterId=listed["Id"])["Cluster"]
            tags = {tag["Key"]: tag.get("Value", "") for tag in described.get("Tags", [])}
            # It may have begun to end since it was listed.
            if RUN_TAG in tags and described["Status"]["State"] in ALIVE:
                found.append(_living(emr, described, tags))
    return sorted(found, key=lambda cluster: cluster.created)


def _living(emr: Any, described: dict[str, Any], tags: dict[str, str]) -> Living:
    cluster_id, status = described["Id"], described["Status"]
    policy = emr.get_auto_termination_policy(ClusterId=cluster_id).get("AutoTerminationPolicy") or {}
    return Living(
        cluster_id,
        tags[RUN_TAG],
        status["State"],
        status["Timeline"]["CreationDateTime"],
        described.get("TerminationProtected", False),
        _moment(tags.get(UNTIL_TAG, "")),
        _idle_since(emr, cluster_id, status["Timeline"].get("ReadyDateTime")),
        timedelta(seconds=policy.get("IdleTimeout", 0)),
    )


def _moment(text: str) -> datetime | None:
    """A tag's moment; None for one that somebody wrote by hand and that is none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _idle_since(emr: Any, cluster_id: str, ready: datetime | None) -> datetime | None:
    if not ready or emr.list_steps(ClusterId=cluster_id, StepStates=_BUSY_STEPS)["Steps"]:
        return None
    ends = [
        step["Status"]["Timeline"]["EndDateTime"]
        for page in emr.get_paginator("list_steps").paginate(ClusterId=cluster_id)
        for step in page["Steps"]
        if "EndDateTime" in step["Status"]["Timeline"]
    ]
    return max([ready, *ends])


def now_of(emr: Any) -> datetime:
    """By AWS's clock, as the times of its clusters are."""
    return clock.told_at(emr.list_clusters(ClusterStates=ALIVE))


def reap(emr: Any, limit_hours: int, *, allowed: bool) -> list[Orphan]:
    """Report the clusters that nobody waits for, and terminate them when that is ``allowed``."""
    now = now_of(emr)
    orphans = []
    for cluster in living(emr):
        reason = cluster.orphaned_by(now, timedelta(hours=limit_hours))
        if reason:
            orphan = Orphan(cluster, reason, seen=now)
            orphans.append(_terminate(emr, orphan) if allowed and not cluster.protected else orphan)
            log.warning("nobody waits for %s", orphans[-1])
    return orphans


def _terminate(emr: Any, orphan: Orphan) -> Orphan:
    from botocore.exceptions import ClientError

    try:
        emr.terminate_job_flows(JobFlowIds=[orphan.cluster.cluster_id])
    except ClientError as error:  # the others must end all the same
        return replace(orphan, error=str(error))
    return replace(orphan, terminated=True)


def tell(words: Words, orphans: Sequence[Orphan], limit_hours: int, region: str) -> Message:
    """The message about ``orphans``, of which there is one at least."""
    lines = [words("reaper.text"), ""]
    for orphan in orphans:
        lines.append(
            words(
                "reaper.line",
                cluster_id=orphan.cluster.cluster_id,
                run_key=orphan.cluster.run_key,
                age=words.duration(orphan.cluster.age(orphan.seen).total_seconds()),
                reason=_reason(words, orphan, limit_hours),
                outcome=_outcome(words, orphan),
            )
        )
    left = [
        orphan.cluster.cluster_id for orphan in orphans if not (orphan.terminated or orphan.cluster.protected)
    ]
    if left:
        command = f"aws emr terminate-clusters --region {region} --cluster-ids {' '.join(left)}"
        lines += ["", words("reaper.command", command=command)]
    subject = "reaper.subject.one" if len(orphans) == 1 else "reaper.subject.many"
    return Message(words(subject, count=len(orphans)), "\n".join(lines))


def _reason(words: Words, orphan: Orphan, limit_hours: int) -> str:
    cluster = orphan.cluster
    if orphan.reason == UNTIL and cluster.until:
        return words("reaper.until", until=words.moment(cluster.until))
    if orphan.reason == IDLE and cluster.idle_since:
        return words("reaper.idle", idle=words.duration((orphan.seen - cluster.idle_since).total_seconds()))
    return words("reaper.age", limit=f"{limit_hours} h")


def _outcome(words: Words, orphan: Orphan) -> str:
    if orphan.terminated:
        return words("reaper.terminated")
    if orphan.error:
        return words("reaper.refused", error=orphan.error)
    return words("reaper.protected" if orphan.cluster.protected else "reaper.reported")
