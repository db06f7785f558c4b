"""Clusters that nobody waits for are found, told, and terminated only where that is allowed.

The clusters are those of the local EMR; only their age is made up, by looking at them from later on.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fruit_pipeline.aws.clusters import RUN_TAG, UNTIL_TAG, name_of
from fruit_pipeline.housekeeping import reaper, tasks
from fruit_pipeline.housekeeping.reaper import LivingCluster
from fruit_pipeline.notify.texts import Words
from image_features.errors import JobError
from support.instant_aws import InstantAws
from support.local_aws import LocalAws
from support.mailbox import Mailbox
from support.waiting import eventually

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _alone(clusters: InstantAws) -> None:
    """No cluster of another test is alive."""
    clusters.terminate_all()
    eventually(lambda: clusters.alive() == [])


def start(aws: LocalAws, run_key: str, until_tag: str | None = None, **more: Any) -> str:
    tags = {RUN_TAG: run_key, **({UNTIL_TAG: until_tag} if until_tag else {})}
    return aws.run(name=name_of(run_key), tags=tags, **more)


def waiting(aws: LocalAws, cluster_id: str) -> str:
    eventually(lambda: aws.state(cluster_id) == "WAITING")
    return cluster_id


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat(timespec="seconds")


# Looking


def test_a_living_cluster_is_described_by_its_tags_its_age_and_its_steps(clusters: InstantAws) -> None:
    policy = {"AutoTerminationPolicy": {"IdleTimeout": 900}}
    before = datetime.now(UTC) - timedelta(seconds=1)  # AWS gives whole milliseconds
    cluster_id = waiting(clusters, start(clusters, "r1", "2026-11-21T18:30:00+00:00", **policy))
    clusters.run(name="somebody else's", tags={"team": "other"})
    (found,) = reaper.living_clusters(clusters.emr)
    assert (found.cluster_id, found.run_key, found.state) == (cluster_id, "r1", "WAITING")
    assert found.until == datetime(2026, 11, 21, 18, 30, tzinfo=UTC)
    assert found.idle_timeout == timedelta(minutes=15)
    assert found.protected is False
    assert before < found.created < datetime.now(UTC) + timedelta(seconds=1)
    assert found.age(found.created + timedelta(minutes=7)) == timedelta(minutes=7)
    ready = clusters.cluster(cluster_id)["Status"]["Timeline"]["ReadyDateTime"]
    assert found.idle_since == ready


def test_a_cluster_with_a_step_is_not_idle_and_is_so_from_the_steps_end(clusters: InstantAws) -> None:
    cluster_id = waiting(clusters, start(clusters, "busy"))
    (ready,) = reaper.living_clusters(clusters.emr)
    steps = [clusters.script("a"), clusters.script("b", gate=threading.Event())]
    first, second = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, first) == "COMPLETED")
    (busy,) = reaper.living_clusters(clusters.emr)
    assert busy.idle_since is None
    clusters.emr.cancel_steps(
        ClusterId=cluster_id, StepIds=[second], StepCancellationOption="TERMINATE_PROCESS"
    )
    eventually(lambda: clusters.step_state(cluster_id, second) == "CANCELLED")
    (idle,) = reaper.living_clusters(clusters.emr)
    assert ready.idle_since
    assert idle.idle_since
    assert idle.idle_since > ready.idle_since


def test_a_cluster_that_ends_is_not_alive(clusters: InstantAws) -> None:
    cluster_id = start(clusters, "ending")
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    assert reaper.living_clusters(clusters.emr) == []


# Judging


def living(**changed: Any) -> LivingCluster:
    now = datetime.now(UTC)
    values = {
        "cluster_id": "j-1",
        "run_key": "r1",
        "state": "WAITING",
        "created": now - timedelta(hours=5),
        "protected": False,
        "idle_timeout": timedelta(minutes=15),
        **changed,
    }
    return LivingCluster(**values)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, None),
        # A step runs, however long, within the limit.
        ({"created": -timedelta(hours=23)}, None),
        ({"created": -timedelta(hours=25)}, reaper.AGE),
        # Its own idle timeout should have ended it an hour ago.
        ({"idle_since": -timedelta(minutes=74)}, None),
        ({"idle_since": -timedelta(minutes=76)}, reaper.IDLE),
        # A notebook is no step: a cluster with a tag is judged by the tag alone.
        ({"idle_since": -timedelta(hours=4), "until": timedelta(hours=1)}, None),
        ({"created": -timedelta(hours=25), "until": timedelta(hours=1)}, None),
        ({"until": -timedelta(minutes=1)}, reaper.UNTIL),
    ],
)
def test_a_cluster_past_its_time_too_old_or_idle_is_an_orphan(
    changed: dict[str, timedelta], reason: str | None
) -> None:
    now = datetime.now(UTC)
    cluster = living(**{name: now + span for name, span in changed.items()})
    assert cluster.orphan_reason(now, DAY) == reason


@pytest.mark.parametrize("text", ["", "soon", "2026-13-45"])
def test_a_tag_that_is_no_moment_leaves_the_other_rules(clusters: InstantAws, text: str) -> None:
    start(clusters, "odd", text or " ")
    (found,) = reaper.living_clusters(clusters.emr)
    assert found.until is None


def test_a_moment_without_an_offset_is_utc() -> None:
    assert reaper._parse_time("2026-11-21T18:30:00") == datetime(2026, 11, 21, 18, 30, tzinfo=UTC)


# Ending


def test_nothing_is_terminated_without_permission(clusters: InstantAws) -> None:
    cluster_id = start(clusters, "over", ago(minutes=5))
    (orphan,) = reaper.reap(clusters.emr, 24, allowed=False)
    assert (orphan.cluster.cluster_id, orphan.reason, orphan.terminated) == (cluster_id, reaper.UNTIL, False)
    assert clusters.alive() == [cluster_id]


def test_only_orphans_are_terminated(clusters: InstantAws) -> None:
    over = start(clusters, "over", ago(minutes=5))
    kept = [start(clusters, "young"), start(clusters, "later", ago(hours=-3))]
    other = clusters.run(name="image-features somebody's own", tags={UNTIL_TAG: ago(days=9)})
    (orphan,) = reaper.reap(clusters.emr, 24, allowed=True)
    assert orphan.terminated
    eventually(lambda: clusters.state(over) == "TERMINATED")
    assert set(clusters.alive()) == {*kept, other}


def test_an_old_cluster_is_terminated_though_it_is_at_work(clusters: InstantAws) -> None:
    cluster_id = start(clusters, "old")
    step = clusters.script("hangs", gate=threading.Event())
    clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])
    assert reaper.reap(clusters.emr, 1, allowed=True) == []
    orphans: list[reaper.Orphan] = []

    def reaped() -> bool:
        orphans.extend(reaper.reap(clusters.emr, 0, allowed=True))
        return bool(orphans)

    eventually(reaped)  # AWS's clock is read to the second
    (orphan,) = orphans
    assert (orphan.reason, orphan.terminated) == (reaper.AGE, True)
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")


def test_a_protected_cluster_is_reported_and_not_terminated(clusters: InstantAws) -> None:
    cluster_id = start(clusters, "kept", ago(minutes=5), Instances={"TerminationProtected": True})
    (orphan,) = reaper.reap(clusters.emr, 24, allowed=True)
    assert orphan.cluster.protected
    assert not orphan.terminated
    assert clusters.alive() == [cluster_id]
    told = reaper.message(Words("en"), [orphan], 24, "eu-west-3").text
    assert "it is protected against termination" in told
    assert "aws emr" not in told, "AWS would refuse the command"


def test_a_cluster_that_aws_refuses_to_end_does_not_keep_the_others(clusters: InstantAws) -> None:
    """One is protected between the look and the call."""
    first, second = start(clusters, "one", ago(minutes=5)), start(clusters, "two", ago(minutes=5))

    class Emr:
        def terminate_job_flows(self, JobFlowIds: list[str]) -> Any:
            clusters.emr.set_termination_protection(JobFlowIds=[first], TerminationProtected=True)
            return clusters.emr.terminate_job_flows(JobFlowIds=JobFlowIds)

        def __getattr__(self, name: str) -> Any:
            return getattr(clusters.emr, name)

    orphans = {orphan.cluster.cluster_id: orphan for orphan in reaper.reap(Emr(), 24, allowed=True)}
    assert "termination protected" in orphans[first].error
    assert orphans[second].terminated
    eventually(lambda: clusters.alive() == [first])


# Telling


def test_the_reapers_message_has_the_orphans_and_the_command_that_terminates_them(
    clusters: InstantAws, mailbox: Mailbox, deployed: pytest.MonkeyPatch
) -> None:
    cluster_id = start(clusters, "over", ago(hours=2))
    (done,) = tasks.reap()
    assert done == {"cluster_id": cluster_id, "run_key": "over", "reason": "until", "terminated": False}
    (received,) = mailbox.read()
    assert received["Subject"] == "One orphaned cluster"
    assert f"- {cluster_id} (over), running for" in received["Message"]
    assert "It keeps running, because FRUITS_REAP is not true." in received["Message"]
    assert received["Message"].endswith(
        f"aws emr terminate-clusters --region eu-west-3 --cluster-ids {cluster_id}"
    )
    start(clusters, "over-as-well", ago(hours=2))
    deployed.setenv("FRUITS_REAP", "true")
    deployed.setenv("FRUITS_LANGUAGE", "fr")
    assert [orphan["terminated"] for orphan in tasks.reap()] == [True, True]
    (received,) = mailbox.read()
    assert received["Subject"] == "2 clusters orphelins"
    assert received["Message"].count("Son arrêt est en cours.") == 2
    assert "aws emr" not in received["Message"]
    eventually(lambda: clusters.alive() == [])


def test_without_orphans_no_message_is_sent(clusters: InstantAws, mailbox: Mailbox) -> None:
    start(clusters, "young")
    assert tasks.reap() == []
    assert mailbox.read() == []


def test_a_cluster_that_cannot_be_terminated_fails_the_task_after_the_message(
    clusters: InstantAws, mailbox: Mailbox, deployed: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster_id = start(clusters, "stuck", ago(hours=2))
    deployed.setenv("FRUITS_REAP", "true")

    def refuse(emr: Any, orphan: reaper.Orphan) -> reaper.Orphan:
        return reaper.replace(orphan, error="AccessDenied")

    monkeypatch.setattr(reaper, "_terminate", refuse)
    with pytest.raises(JobError, match=f"could not be terminated: {cluster_id}"):
        tasks.reap()
    (received,) = mailbox.read()
    assert "It could not be terminated: AccessDenied" in received["Message"]


@pytest.mark.parametrize(
    ("changed", "reason", "expected"),
    [
        ({"created": -timedelta(hours=25)}, reaper.AGE, "older than the 24 h of FRUITS_REAP_HOURS"),
        ({"idle_since": -timedelta(hours=2, minutes=1)}, reaper.IDLE, "without a step for 2 h 01 min"),
        ({"until": -timedelta(minutes=1)}, reaper.UNTIL, "its end was due at"),
    ],
)
def test_the_message_names_each_reason(changed: dict[str, timedelta], reason: str, expected: str) -> None:
    now = datetime.now(UTC)
    orphan = reaper.Orphan(living(**{name: now + span for name, span in changed.items()}), reason)
    assert expected in reaper.message(Words("en"), [orphan], 24, "eu-west-3").text
