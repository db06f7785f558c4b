"""Calls of EMR that are refused, or whose answer is lost, late or of another time."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from clusters import clusters_of, limit_steps, once_clusters_ended, steps_of
from trial import Trial

from support.clocks import OtherClock, RefuseClock
from support.fault_kinds import BROKEN, DENIED, THROTTLED, Amend, Error, LoseAnswer, Refuse
from support.faulty_aws import Answer, Call

EMR_CALLS = (
    *("RunJobFlow", "ListClusters", "DescribeCluster", "TerminateJobFlows", "SetTerminationProtection"),
    *("AddJobFlowSteps", "ListSteps", "DescribeStep"),
)
SENT_ONCE = ("RunJobFlow", "AddJobFlowSteps")


# Throttling


@pytest.mark.fault("EMR throttles: each call seven times running, more than the SDK tries")
def test_storm(trial: Trial) -> None:
    # What is sent once is tried again by the task alone, six times in all.
    times = dict.fromkeys(EMR_CALLS, 7) | dict.fromkeys(SENT_ONCE, 3)
    faults = [trial.add(Refuse(THROTTLED, name, times=n)) for name, n in times.items()]
    ended = trial.goes_through()
    assert [fault.caught.total() for fault in faults] == [*times.values()]
    assert len(clusters_of(trial)) == 1, "a retry made a second cluster"
    assert len(steps_of(trial, clusters_of(trial)[0]["Id"])) == 2, "a retry added a second step"
    assert "AWS throttles" in ended.log


@pytest.mark.fault("EMR throttles DescribeStep for ever")
def test_throttled_for_ever(trial: Trial) -> None:
    fault = trial.add(Refuse(THROTTLED, "DescribeStep"))
    ended = trial.fails(r"AWS throttles DescribeStep \(ThrottlingException\)")
    cluster_id = clusters_of(trial)[-1]["Id"]
    text = (
        f"cluster {cluster_id}: AWS throttles DescribeStep (ThrottlingException), after every retry; "
        "try again in some minutes"
    )
    assert ended.log.count(f"AirflowException: {text}") >= 2, "the task was not tried again"
    assert fault.caught["DescribeStep"] > ended.log.count(text), "the SDK did not try again"
    assert ended.subject == f"Run failed: {trial.run_key} (wait_for_extraction)"
    assert text in ended.message


# Permissions, and other refusals


@pytest.mark.fault("AddJobFlowSteps is denied")
def test_denied(trial: Trial) -> None:
    fault = trial.add(Refuse(DENIED, "AddJobFlowSteps"))
    ended = trial.fails("AddJobFlowSteps is denied; grant elasticmapreduce:AddJobFlowSteps")
    text = (
        f"cluster {clusters_of(trial)[-1]['Id']}: AddJobFlowSteps is denied; grant "
        "elasticmapreduce:AddJobFlowSteps to the credentials in use, in their or its policy"
    )
    assert f"AirflowFailException: {text}" in ended.log
    assert text in ended.message
    assert fault.caught.total() == 1, "what is denied is not asked for again"
    assert ended.subject == f"Run failed: {trial.run_key} (add_extraction)"
    assert "MAY STILL BE ALIVE" not in ended.message


@pytest.mark.fault("DescribeCluster is denied once there is a cluster")
def test_blind(trial: Trial) -> None:
    """Also the teardown cannot see which one is the run's."""
    trial.add(Refuse(DENIED, "DescribeCluster", after="RunJobFlow"))
    denied = "DescribeCluster is denied; grant elasticmapreduce:DescribeCluster to the credentials in use"
    ended = trial.fails(denied, lambda: once_clusters_ended(trial, trial.run()))
    cluster_id = clusters_of(trial)[-1]["Id"]
    assert f"AirflowFailException: cluster {cluster_id}: {denied}" in ended.log
    assert f"AirflowException: AWS was asked to terminate cluster {cluster_id}, but its end" in ended.log
    assert ended.subject == f"Run failed: {trial.run_key} (add_extraction)"


@pytest.mark.fault("RunJobFlow is refused for a quota")
def test_quota(trial: Trial) -> None:
    words = "The number of vCPUs for instance type m5.xlarge exceeds the EC2 service quota for that type"
    fault = trial.add(Refuse(Error("ValidationException", words), "RunJobFlow"))
    ended = trial.fails(words)
    assert fault.caught.total() == 1
    assert ended.subject == f"Run failed: {trial.run_key} (create_cluster)"
    assert len(clusters_of(trial)) == 1, "that of the run that was resumed"


# Answers that are lost, late or old


def unseen(name: str, answer: str) -> LoseAnswer | Amend:
    """AWS does the call, and it looks as if it did not."""
    if answer == "lost":
        return LoseAnswer(name)
    return Amend(lambda call, _: BROKEN.answer(call), name, times=1)


def hiding_newest(call: Call, answer: Answer) -> Answer:
    values = json.loads(answer.body)
    values["Clusters"] = values["Clusters"][1:]
    return Answer(answer.status, answer.headers, json.dumps(values).encode())


@pytest.mark.parametrize("answer", ["lost", "an error 500"])
@pytest.mark.fault("RunJobFlow makes a cluster, and its answer is {answer}")
def test_cluster_made_unseen(trial: Trial, answer: str) -> None:
    trial.add(unseen("RunJobFlow", answer))
    trial.goes_through()
    assert len(clusters_of(trial)) == 1, "a retry made a second cluster"


@pytest.mark.fault("RunJobFlow's answer is lost, and ListClusters does not show the cluster at once")
def test_cluster_made_unlisted(trial: Trial) -> None:
    trial.add(LoseAnswer("RunJobFlow"))
    trial.add(Amend(hiding_newest, "ListClusters", after="RunJobFlow", times=2))
    trial.goes_through()
    assert len(clusters_of(trial)) == 1, "a retry made a second cluster"


@pytest.mark.fault("ListClusters never shows the run's cluster")
def test_cluster_never_listed(trial: Trial) -> None:
    trial.add(Amend(hiding_newest, "ListClusters", after="RunJobFlow"))
    trial.goes_through()


@pytest.mark.parametrize("answer", ["lost", "an error 500"])
@pytest.mark.fault("AddJobFlowSteps adds the step, and its answer is {answer}")
def test_step_added_unseen(trial: Trial, answer: str) -> None:
    trial.add(unseen("AddJobFlowSteps", answer))
    trial.goes_through()
    (cluster,) = clusters_of(trial)
    assert len(steps_of(trial, cluster["Id"])) == 2, "a retry added a second step"


@pytest.mark.quick
@pytest.mark.fault("EMR does not know the new cluster, nor its step, for a moment")
def test_not_known_yet(trial: Trial) -> None:
    unknown = partial(Error, "InvalidRequestException")
    cluster = unknown("Cluster id 'j-1' is not valid.")
    trial.add(Refuse(cluster, "DescribeCluster", after="RunJobFlow", times=3))
    trial.add(Refuse(unknown("Step id 's-1' is not valid."), "DescribeStep", times=3))
    trial.goes_through()


@pytest.mark.fault("EMR never starts the step: PENDING for ever")
def test_pending_for_ever(trial: Trial, tmp_path: Path) -> None:
    def pending(_: Call, answer: Answer) -> Answer:
        values = json.loads(answer.body)
        for step in [values["Step"]] if "Step" in values else values["Steps"]:
            created = step["Status"]["Timeline"]["CreationDateTime"]
            step["Status"].update(State="PENDING", Timeline={"CreationDateTime": created})
        return Answer(answer.status, answer.headers, json.dumps(values).encode())

    limit_steps(trial, tmp_path, 10)
    trial.add(Amend(pending, "DescribeStep", "ListSteps"))
    ended = trial.fails(r"has waited for 0 min, and EMR does not start it", again=trial.variables.clear)
    assert ended.subject == f"Run failed: {trial.run_key} (wait_for_extraction)"


# Clocks


@pytest.mark.parametrize("minutes", [60, -60], ids=["ahead", "behind"])
@pytest.mark.fault("AWS's clock differs from ours by {minutes} minutes")
def test_other_clock(trial: Trial, minutes: int) -> None:
    trial.add(OtherClock(minutes * 60))
    trial.goes_through()


@pytest.mark.fault("EMR refuses what our clock signs, an hour behind its own")
def test_clock_refused(trial: Trial) -> None:
    fault = trial.add(RefuseClock(3600, service="elasticmapreduce"))
    ended = trial.fails("this machine's clock is 60 min behind AWS's")
    assert fault.caught.total() == 1, "what the clock decides is not asked for again"
    assert ended.subject.endswith("(preflight)")
