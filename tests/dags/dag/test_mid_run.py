"""Errors of AWS while a cluster lives: one line each, and a retry if it may help.

The operators run against the local AWS, through a proxy that makes the faults.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from botocore import retryhandler
from botocore.exceptions import (
    ClientError,
    ReadTimeoutError,
)

from fruit_pipeline.aws import errors
from fruit_pipeline.aws.clusters import RUN_TAG, name_of
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.dag import operators, sensors
from image_features.errors import JobError, StorageError
from support.fault_kinds import BROKEN, DENIED, EXPIRED, THROTTLED, EndCluster, Error, Refuse
from support.faulty_aws import FaultyAws
from support.instant_aws import InstantAws
from support.waiting import eventually

CODES = botocore.session.get_session().get_service_model("emr").shape_for("ClusterStateChangeReasonCode").enum


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(xcom_push=lambda key, value: None)}


@pytest.fixture(autouse=True)
def _as_in_a_task_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)
    # The SDK's own tries remain, only the waits between them are cut.
    monkeypatch.setattr(retryhandler, "delay_exponential", lambda *_, **__: 0.01)


@pytest.fixture
def terminate(arguments: dict[str, Any]) -> Callable[..., operators.TerminateClusters]:
    def build(run_key: str, cluster_id: str = "") -> operators.TerminateClusters:
        return operators.TerminateClusters(
            run_key=run_key, job_flow_id=cluster_id, waiter_delay=0.05, waiter_max_attempts=600, **arguments
        )

    return build


def start(clusters: InstantAws, run_key: str, **more: Any) -> str:
    return clusters.run(name=name_of(run_key), tags={RUN_TAG: run_key}, **more)


def refused(operator: Any, context: Any) -> str:
    """The error of an attempt that Airflow retries."""
    with pytest.raises(AirflowException) as caught:
        operator.execute(context)
    assert not isinstance(caught.value, AirflowFailException), caught.value
    return str(caught.value)


def refused_for_good(operator: Any, context: Any) -> str:
    with pytest.raises(AirflowFailException) as caught:
        operator.execute(context)
    return str(caught.value)


# Clusters that end


@pytest.mark.parametrize("code", CODES)
def test_each_reason_of_a_clusters_end_fails_the_task_without_a_retry(
    code: str, clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any
) -> None:
    cluster_id = start(clusters, "ends")
    faulty.add(EndCluster(code, f"so it is: {code}"))
    sensor = sensors.ClusterReady(job_flow_id=cluster_id, poke_interval=0.05, limit_seconds=600, **arguments)
    text = refused_for_good(sensor, context)
    wanted = code in ("USER_REQUEST", "ALL_STEPS_COMPLETED")
    state = "TERMINATED" if wanted else "TERMINATED_WITH_ERRORS"
    assert text.startswith(f"cluster {cluster_id} is {state} ({code}: so it is: {code}); ")
    assert "Clear the task that created the cluster, and those after it" in text
    assert clusters.alive() == []


# Creating


def test_a_cluster_creation_that_is_denied_is_not_retried(
    create: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any
) -> None:
    faulty.add(Refuse(DENIED, "RunJobFlow"))
    assert refused_for_good(create("denied"), context).startswith(
        "a new cluster: RunJobFlow is denied; grant elasticmapreduce:RunJobFlow to the credentials in use"
    )
    assert clusters.alive() == []


def test_the_permission_that_aws_names_is_the_one_to_grant(
    create: Callable[..., Any], faulty: FaultyAws, context: Any
) -> None:
    message = DENIED.message.format(service="iam", name="PassRole")
    faulty.add(Refuse(Error("AccessDeniedException", message), "RunJobFlow"))
    assert "RunJobFlow is denied; grant iam:PassRole to the" in refused_for_good(create("pass-role"), context)


def test_a_request_that_emr_refuses_fails_with_emrs_message(
    create: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any
) -> None:
    words = "The requested instance type m5.xlarge is not supported in the requested availability zone"
    fault = faulty.add(Refuse(Error("ValidationException", words), "RunJobFlow"))
    assert words in refused_for_good(create("invalid"), context)
    assert fault.caught.total() == 1
    assert clusters.alive() == []


@pytest.mark.parametrize("error", [THROTTLED, EXPIRED, BROKEN], ids=lambda error: error.code)
def test_what_passes_is_left_for_a_retry_that_makes_one_cluster(
    create: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any, error: Error
) -> None:
    fault = faulty.add(Refuse(error, "RunJobFlow", times=1))
    assert "RunJobFlow" in refused(create("passing"), context) or error is EXPIRED
    assert fault.caught.total() == 1
    assert clusters.alive() == []
    made = create("passing").execute(context)
    assert clusters.alive() == [made]


@pytest.mark.parametrize("error", [THROTTLED, DENIED, EXPIRED], ids=lambda error: error.code)
def test_a_created_cluster_is_not_lost_when_it_cannot_be_described(
    create: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any, error: Error
) -> None:
    faulty.add(Refuse(error, "DescribeCluster", after="RunJobFlow"))
    made = create("unseen").execute(context)
    assert clusters.alive() == [made]


# Steps


def test_a_step_that_is_denied_is_not_added_again(
    clusters: InstantAws, faulty: FaultyAws, arguments: dict[str, Any], context: Any
) -> None:
    cluster_id = start(clusters, "steps")
    fault = faulty.add(Refuse(DENIED, "AddJobFlowSteps"))
    step = clusters.script("never")
    add = operators.AddStepOnce(job_flow_id=cluster_id, steps=[step], **arguments)
    assert refused_for_good(add, context).startswith(
        f"cluster {cluster_id}: AddJobFlowSteps is denied; grant elasticmapreduce:AddJobFlowSteps to the"
    )
    assert fault.caught.total() == 1
    assert clusters.emr.list_steps(ClusterId=cluster_id)["Steps"] == []


@pytest.mark.parametrize(
    ("error", "for_good", "expected"),
    [
        (DENIED, True, "DescribeStep is denied; grant elasticmapreduce:DescribeStep to the credentials"),
        (EXPIRED, False, "the credentials have expired; renew them"),
        (THROTTLED, False, "AWS throttles DescribeStep (ThrottlingException), after every retry; try again"),
        (BROKEN, False, "(InternalServerError)"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_a_step_that_cannot_be_described_is_awaited_while_the_error_may_be_transient(
    clusters: InstantAws,
    faulty: FaultyAws,
    arguments: dict[str, Any],
    context: Any,
    error: Error,
    for_good: bool,
    expected: str,
) -> None:
    cluster_id = start(clusters, "looks")
    step = clusters.script("quick")
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "COMPLETED")
    fault = faulty.add(Refuse(error, "DescribeStep"))

    def sensor() -> sensors.StepDone:
        return sensors.StepDone(
            job_flow_id=cluster_id, step_id=step_id, poke_interval=0.05, limit_seconds=600, **arguments
        )

    text = (refused_for_good if for_good else refused)(sensor(), context)
    assert text.startswith(f"cluster {cluster_id}: ")
    assert expected in text
    faulty.remove(fault)
    sensor().execute(context)  # and sees the end of the step


# Terminating


def test_protection_that_may_not_be_lifted_does_not_keep_the_cluster(
    terminate: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any
) -> None:
    cluster_id = start(clusters, "protection")
    fault = faulty.add(Refuse(DENIED, "SetTerminationProtection"))
    terminate("protection", cluster_id).execute(context)
    assert fault.caught.total() == 1
    assert clusters.state(cluster_id) == "TERMINATED"


@pytest.mark.parametrize("call", ["ListClusters", "DescribeCluster"])
def test_a_cluster_whose_search_is_denied_is_terminated_by_its_id(
    terminate: Callable[..., Any], clusters: InstantAws, faulty: FaultyAws, context: Any, call: str
) -> None:
    cluster_id = start(clusters, "hidden")
    faulty.add(Refuse(DENIED, call))
    text = refused(terminate("hidden", cluster_id), context)
    assert text.startswith(
        f"AWS was asked to terminate cluster {cluster_id}, but its end was not confirmed; check it in the "
        "EMR console: run hidden: "
        f"{call} is denied; grant elasticmapreduce:{call} to the credentials in use"
    )
    assert text.endswith(". Then clear this task")
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (DENIED, "TerminateJobFlows is denied; grant elasticmapreduce:TerminateJobFlows to the credentials"),
        (EXPIRED, "the credentials have expired; renew them"),
        (THROTTLED, "AWS throttles TerminateJobFlows (ThrottlingException), after every retry"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_a_cluster_that_cannot_be_terminated_is_warned_about_until_a_retry_ends_it(
    terminate: Callable[..., Any],
    clusters: InstantAws,
    faulty: FaultyAws,
    context: Any,
    error: Error,
    why: str,
) -> None:
    cluster_id = start(clusters, "leak")
    fault = faulty.add(Refuse(error, "TerminateJobFlows"))
    text = refused(terminate("leak", cluster_id), context)
    assert text.startswith(
        f"CLUSTER {cluster_id} MAY STILL BE ALIVE, AND COST MONEY, until it is terminated in the EMR console "
        f"or ends by its idle timeout: run leak: {why}"
    )
    assert refused(terminate("leak"), context).startswith("A CLUSTER OF RUN leak MAY STILL BE ALIVE")
    assert clusters.alive() == [cluster_id]
    faulty.remove(fault)
    terminate("leak", cluster_id).execute(context)
    assert clusters.state(cluster_id) == "TERMINATED"


# Words


@pytest.mark.parametrize(
    "trouble",
    [
        ClientError({"Error": {"Code": "ExpiredToken", "Message": "old"}}, "GetObject"),
        ClientError(
            {"Error": {"Code": "503", "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": 503}},
            "PutObject",
        ),
        ReadTimeoutError(endpoint_url="http://127.0.0.1"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_only_a_run_with_a_cluster_waits_for_what_may_pass(aws: Aws, trouble: Exception) -> None:
    with pytest.raises(StorageError), errors.explained("the run", aws, patient=True):
        raise trouble
    with pytest.raises(JobError) as caught, errors.explained("the run", aws):
        raise trouble
    assert not isinstance(caught.value, StorageError)
