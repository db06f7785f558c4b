"""Reaper: finds living clusters that no run uses any more, and terminates them where settings allow it.

A cluster is judged by itself, not by the runs that Airflow knows: another Airflow, or a person at the command
line, may have started it, and the worst leak is the cluster of an Airflow that is gone. Only clusters with
the tag of a run are looked at. Such a cluster is an orphan

- if its tag `image-features-until` names a time that has passed (notebook clusters carry it);
- without that tag, if it is older than `FRUITS_REAP_HOURS`, which must be more than the longest run takes;
- without that tag, if it has had no step for an hour longer than its own idle timeout, which should have
  ended it. Only seconds pass between two steps of a run.

A cluster with termination protection is reported and not terminated. Work that is no step (a shell on the
primary node) does not count as use: protect such a cluster, or give it the tag.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from fruit_pipeline.aws import clock, clusters
from fruit_pipeline.aws.clusters import ALIVE, RUN_TAG, UNTIL_TAG, Cluster
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.notify.texts import Words

log = logging.getLogger(__name__)

_IDLE_GRACE = timedelta(hours=1)
_BUSY_STEPS = ["PENDING", "RUNNING", "CANCEL_PENDING"]

# Why a cluster is an orphan.
UNTIL, AGE, IDLE = "until", "age", "idle"


@dataclass(frozen=True)
class LivingCluster:
    """A living cluster that carries a run's tag."""

    cluster_id: str
    run_key: str
    state: str
    created: datetime
    protected: bool
    until: datetime | None = None
    idle_since: datetime | None = None  # None while it starts or has a step to run
    idle_timeout: timedelta = timedelta(0)  # 0 if it has none

    def age(self, now: datetime) -> timedelta:
        return now - self.created

    def orphan_reason(self, now: datetime, age_limit: timedelta) -> str | None:
        """UNTIL, AGE or IDLE if it is an orphan, else None."""
        if self.until:
            return UNTIL if now >= self.until else None
        if self.age(now) > age_limit:
            return AGE
        if self.idle_since and now - self.idle_since > self.idle_timeout + _IDLE_GRACE:
            return IDLE
        return None


@dataclass(frozen=True)
class Orphan:
    """A cluster that no run uses, and what was done about it; ``error`` if AWS refused to terminate it.

    ``detected`` is a time of AWS's clock.
    """

    cluster: LivingCluster
    reason: str
    terminated: bool = False
    error: str = ""
    detected: datetime = field(default_factory=lambda: datetime.now(UTC))


def living_clusters(emr: Any) -> list[LivingCluster]:
    """Every living cluster that carries a run's tag, oldest first."""
    living = [
        _read(emr, cluster)
        for cluster in clusters.clusters_of_runs(emr, ALIVE)
        if not cluster.ending  # since it was listed
    ]
    return sorted(living, key=lambda cluster: cluster.created)


def _read(emr: Any, cluster: Cluster) -> LivingCluster:
    policy = emr.get_auto_termination_policy(ClusterId=cluster.id).get("AutoTerminationPolicy") or {}
    return LivingCluster(
        cluster.id,
        cluster.tags[RUN_TAG],
        cluster.state,
        cluster.created,
        cluster.termination_protected,
        _parse_time(cluster.tags.get(UNTIL_TAG, "")),
        _idle_since(emr, cluster),
        timedelta(seconds=policy.get("IdleTimeout", 0)),
    )


def _parse_time(text: str) -> datetime | None:
    """The time in a tag, in UTC if it has no offset; None if a person wrote something else there."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _idle_since(emr: Any, cluster: Cluster) -> datetime | None:
    if not cluster.ready or emr.list_steps(ClusterId=cluster.id, StepStates=_BUSY_STEPS)["Steps"]:
        return None
    ends = [
        step["Status"]["Timeline"]["EndDateTime"]
        for page in emr.get_paginator("list_steps").paginate(ClusterId=cluster.id)
        for step in page["Steps"]
        if "EndDateTime" in step["Status"]["Timeline"]
    ]
    return max([cluster.ready, *ends])


def server_time(emr: Any) -> datetime:
    """Now, by AWS's clock, which also sets the times of the clusters."""
    return clock.server_time(emr.list_clusters(ClusterStates=ALIVE))


def reap(emr: Any, limit_hours: int, *, allowed: bool) -> list[Orphan]:
    """Report orphans, and terminate those that are not protected if ``allowed``."""
    now = server_time(emr)
    orphans = []
    for cluster in living_clusters(emr):
        reason = cluster.orphan_reason(now, timedelta(hours=limit_hours))
        if reason:
            orphan = Orphan(cluster, reason, detected=now)
            orphans.append(_terminate(emr, orphan) if allowed and not cluster.protected else orphan)
            log.warning("no run uses this cluster: %s", orphans[-1])
    return orphans


def _terminate(emr: Any, orphan: Orphan) -> Orphan:
    from botocore.exceptions import ClientError

    try:
        emr.terminate_job_flows(JobFlowIds=[orphan.cluster.cluster_id])
    except ClientError as error:  # the other orphans must still be terminated
        return replace(orphan, error=str(error))
    return replace(orphan, terminated=True)


def message(words: Words, orphans: Sequence[Orphan], limit_hours: int, region: str) -> Message:
    """The message about ``orphans``, at least one."""
    lines = [words("reaper.text"), ""]
    for orphan in orphans:
        lines.append(
            words(
                "reaper.line",
                cluster_id=orphan.cluster.cluster_id,
                run_key=orphan.cluster.run_key,
                age=words.duration(orphan.cluster.age(orphan.detected).total_seconds()),
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
        return words(
            "reaper.idle", idle=words.duration((orphan.detected - cluster.idle_since).total_seconds())
        )
    return words("reaper.age", limit=f"{limit_hours} h")


def _outcome(words: Words, orphan: Orphan) -> str:
    if orphan.terminated:
        return words("reaper.terminated")
    if orphan.error:
        return words("reaper.refused", error=orphan.error)
    return words("reaper.protected" if orphan.cluster.protected else "reaper.reported")
