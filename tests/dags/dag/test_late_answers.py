"""Answers that are lost, late or by another clock: nothing is created twice or leaked, and ages are right.

The operators run against the local AWS, through a proxy that makes the faults.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)

from fruit_pipeline.aws import errors
from fruit_pipeline.aws.clusters import RUN_TAG, name_of
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.dag import operators, sensors
from fruit_pipeline.housekeeping import reaper
from image_features.errors import JobError
from support.airflow import CONNECTION
from support.clocks import OtherClock, RefuseClock
from support.fault_kinds import BROKEN, Amend, Error, LoseAnswer, Refuse
from support.faulty_aws import Answer, Call, FaultyAws
from support.instant_aws import InstantAws
from support.local_aws import REGION
from support.waiting import eventually


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(xcom_push=lambda key, value: None)}


@pytest.fixture(autouse=True)
def _as_in_a_task_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)


def start(clusters: InstantAws, run_key: str) -> str:
    return clusters.run(name=name_of(run_key), tags={RUN_TAG: run_key})


# Lost answers


def unseen(name: str, answer: str) -> LoseAnswer | Amend:
    """AWS executes the call, and its answer is lost."""
    if answer == "lost":
        return LoseAnswer(name)
    return Amend(lambda call, _: BROKEN.answer(call), name, times=1)


def without_newest(call: Call, answer: Answer) -> Answer:
    values = json.loads(answer.body)
    return Answer(answer.status, answer.headers, json.dumps({"Clusters": values["Clusters"][1:]}).encode())


@pytest.mark.parametrize("answer", ["lost", "an error 500"])
@pytest.mark.parametrize("late", [0, 2])
def test_a_cluster_is_found_after_a_lost_answer_even_if_emr_lists_it_late(
    create: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any, answer: str, late: int
) -> None:
    fault = faulty.add(unseen("RunJobFlow", answer))
    if late:
        faulty.add(Amend(without_newest, "ListClusters", after="RunJobFlow", times=late))
    made = create(f"unanswered-{late}").execute(context)
    assert fault.caught.total() == 1
    assert clusters.alive() == [made]


@pytest.mark.parametrize("answer", ["lost", "an error 500"])
def test_a_step_whose_adding_was_not_answered_is_not_added_again(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any, answer: str
) -> None:
    cluster_id = start(clusters, "added")
    fault = faulty.add(unseen("AddJobFlowSteps", answer))
    step = clusters.script("once")
    with pytest.raises(AirflowException) as caught:
        operators.AddStepOnce(job_flow_id=cluster_id, steps=[step], **arguments).execute(context)
    assert not isinstance(caught.value, AirflowFailException), caught.value
    (found,) = operators.AddStepOnce(job_flow_id=cluster_id, steps=[step], **arguments).execute(context)
    assert fault.caught.total() == 1
    assert [step["Id"] for step in clusters.emr.list_steps(ClusterId=cluster_id)["Steps"]] == [found]


@pytest.mark.parametrize(
    "words", ["Cluster id 'j-1' is not valid.", "Step id 's-1' is not valid."], ids=["cluster", "step"]
)
def test_what_emr_does_not_know_yet_is_requested_again(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any, words: str
) -> None:
    faulty.add(Refuse(Error("InvalidRequestException", words), "DescribeStep"))
    sensor = sensors.StepDone(
        job_flow_id="j-1", step_id="s-1", poke_interval=0.05, limit_seconds=600, **arguments
    )
    with pytest.raises(AirflowException, match="is not valid") as caught:
        sensor.execute(context)
    assert not isinstance(caught.value, AirflowFailException)


# Clocks, and lists that are late


@pytest.mark.parametrize("hours", [1, -1])
def test_a_steps_age_is_measured_by_aws_s_own_clock(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any, hours: int
) -> None:
    cluster_id = start(clusters, "clock")
    step = clusters.script("long", gate=threading.Event())
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "RUNNING")
    faulty.add(OtherClock(hours * 3600))
    sensor = sensors.StepDone(
        job_flow_id=cluster_id, step_id=step_id, poke_interval=100, limit_seconds=1800, **arguments
    )
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)
    trigger: Any = caught.value.trigger
    assert 15 <= trigger.attempts <= 20, "its age is not that of a step that has just begun"
    assert clusters.step_state(cluster_id, step_id) == "RUNNING"


@pytest.mark.parametrize("hours", [30, -30])
def test_the_reaper_measures_a_clusters_age_by_aws_s_own_clock(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], hours: int
) -> None:
    start(clusters, "young")
    faulty.add(OtherClock(hours * 3600))
    emr = Aws.from_connection(CONNECTION, REGION).client("emr")
    assert reaper.reap(emr, 24, allowed=True) == []
    (young,) = reaper.living_clusters(emr)
    assert young.age(reaper.server_time(emr)).total_seconds() < 3600


def test_the_error_about_a_wrong_clock_says_how_far_it_is_off(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any]
) -> None:
    fault = faulty.add(RefuseClock(3600, "ListClusters"))
    aws = Aws.from_connection(CONNECTION, REGION)
    with pytest.raises(JobError) as caught, errors.explained("the clusters", aws, patient=True):
        aws.client("emr").list_clusters()
    assert str(caught.value) == (
        "the clusters: this machine's clock is 60 min behind AWS's, so AWS refuses its signatures; set "
        "the clock, for example by NTP"
    )
    assert fault.caught.total() == 1


def test_a_cluster_that_aws_does_not_list_yet_is_terminated_by_its_id(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any
) -> None:
    cluster_id = start(clusters, "unlisted")
    empty = json.dumps({"Clusters": []}).encode()
    faulty.add(Amend(lambda _, answer: Answer(answer.status, answer.headers, empty), "ListClusters"))
    teardown = operators.TerminateClusters(
        run_key="unlisted", job_flow_id=cluster_id, waiter_delay=0.05, waiter_max_attempts=600, **arguments
    )
    teardown.execute(context)
    assert clusters.state(cluster_id) == "TERMINATED"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 500}}, "RunJobFlow"), True),
        (ClientError({"Error": {}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "RunJobFlow"), False),
        (ReadTimeoutError(endpoint_url="http://127.0.0.1"), True),
        (ConnectionClosedError(endpoint_url="http://127.0.0.1"), True),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1"), False),
        (NoCredentialsError(), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_aws_may_have_done_is_known_from_the_error(error: Exception, expected: bool) -> None:
    assert errors.may_be_done(error) is expected


def test_a_step_that_emr_never_starts_is_cancelled_at_its_limit_and_says_so(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any
) -> None:
    cluster_id = start(clusters, "pending")
    step = clusters.script("never", gate=threading.Event())
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "RUNNING")

    def pending(_: Call, answer: Answer) -> Answer:
        values = json.loads(answer.body)
        values["Step"]["Status"].update(State="PENDING")
        values["Step"]["Status"]["Timeline"].pop("StartDateTime")
        return Answer(answer.status, answer.headers, json.dumps(values).encode())

    time.sleep(1.1)  # AWS's clock is read to a second
    faulty.add(Amend(pending, "DescribeStep"))
    sensor = sensors.StepDone(
        job_flow_id=cluster_id, step_id=step_id, poke_interval=0.05, limit_seconds=0.01, **arguments
    )
    with pytest.raises(AirflowFailException, match="and EMR does not start it, though no other step runs"):
        sensor.execute(context)
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "CANCELLED")
