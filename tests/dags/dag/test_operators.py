"""A retry creates no second cluster or step, a failure has its reason, and everything is terminated.

The operators run against the local AWS, as a worker runs them; a deferred one's trigger runs here.
"""

from __future__ import annotations

import ast
import asyncio
import gzip
import inspect
import textwrap
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.configuration import conf
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred

from fruit_pipeline.aws.clusters import RUN_TAG, name_of
from fruit_pipeline.cluster import job_flow, shapes
from fruit_pipeline.dag import errors, operators, sensors
from fruit_pipeline.settings import Settings
from image_features.errors import JobError, StorageError
from support.airflow import PROVIDER_SWITCHES
from support.instant_aws import InstantAws, Script
from support.local_aws import BUCKET, REGION
from support.waiting import eventually


class TaskInstance:
    """What the operators want of a task instance: a place for their links."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


@pytest.fixture
def context() -> dict[str, Any]:
    return {"ti": TaskInstance()}


@pytest.fixture(autouse=True)
def _as_in_a_task_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)


@pytest.fixture
def aws_arguments(connection: str) -> dict[str, Any]:
    return {"task_id": "task", "aws_conn_id": connection, "region_name": REGION}


@pytest.fixture
def waiting(aws_arguments: dict[str, Any]) -> dict[str, Any]:
    return {**aws_arguments, "poke_interval": 0.05, "limit_seconds": 600}


@pytest.fixture
def request_of(deployment: Settings, repo: Path, clusters: InstantAws) -> Callable[..., dict[str, Any]]:
    """The real request of a run, with a bootstrap action of the test's."""

    def build(run_key: str, **bootstrap: Any) -> dict[str, Any]:
        root = f"s3://{BUCKET}/runs/{run_key}"
        script = clusters.put_script(f"runs/{run_key}/code/install.sh", Script(**bootstrap))
        shape = shapes.load_shape(repo, "small")
        return job_flow.build_request(deployment, shape, run_key, f"{root}/logs", script, "s3://b-1/wheels")

    return build


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload


def run_to_end(sensor: Any, context: dict[str, Any], gate: threading.Event | None = None) -> bool:
    """Run a deferrable sensor as a worker and a triggerer do; whether it did defer.

    ``gate`` is set when it has deferred; what waits for the gate cannot be over before.
    """
    try:
        sensor.execute(context)
    except TaskDeferred as deferred:
        if gate:
            gate.set()
        event = asyncio.run(asyncio.wait_for(first_event(deferred.trigger), 600))
        getattr(sensor, deferred.method_name)(context, event)
        return True
    return False


# Defaults of the deployment


def configured_defaults(operator: type) -> set[tuple[str, str, str]]:
    """Argument, section and option of each default that the provider's constructors take from Airflow's
    configuration."""
    provided = [cls for cls in operator.__mro__ if cls.__module__.startswith("airflow.providers.")]
    return {
        (argument.arg, *(ast.literal_eval(name) for name in default.args[:2]))
        for cls in provided
        if "__init__" in vars(cls)
        for function in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(cls.__init__))))
        if isinstance(function, ast.FunctionDef)
        for argument, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
        if isinstance(default, ast.Call) and ast.unparse(default.func).startswith("conf.")
    }


@pytest.mark.parametrize(
    ("operator", "required"),
    [
        (operators.CreateClusterOnce, []),
        (operators.AddStepOnce, ["job_flow_id"]),
        (operators.TerminateClusters, ["run_key"]),
        (sensors.ClusterReady, ["job_flow_id"]),
        (sensors.StepDone, ["job_flow_id", "step_id", "limit_seconds"]),
    ],
)
def test_no_default_of_the_deployment_reaches_an_operator(operator: type, required: list[str]) -> None:
    defaults = configured_defaults(operator)
    assert {argument for argument, _, _ in defaults} >= {"deferrable"}
    for argument, section, option in defaults:
        # The other tests of this module run with the default switched on.
        assert (section, option) in PROVIDER_SWITCHES
        assert conf.getboolean(section, option)
        with pytest.raises(TypeError, match=f"multiple values for keyword argument '{argument}'"):
            operator(task_id="task", **dict.fromkeys([argument, *required], 1))


# Creating


def test_creating_again_takes_the_cluster_that_lives(
    request_of: Callable[..., dict[str, Any]],
    aws_arguments: dict[str, Any],
    context: Any,
    clusters: InstantAws,
) -> None:
    request = request_of("create-twice")
    ids = [
        operators.CreateClusterOnce(job_flow_overrides=request, **aws_arguments).execute(context)
        for _ in range(2)
    ]
    assert ids[0] == ids[1]
    assert clusters.alive() == [ids[0]]


def test_creating_after_the_cluster_ended_makes_another(
    request_of: Callable[..., dict[str, Any]],
    aws_arguments: dict[str, Any],
    context: Any,
    clusters: InstantAws,
) -> None:
    request = request_of("create-again")
    first = operators.CreateClusterOnce(job_flow_overrides=request, **aws_arguments).execute(context)
    clusters.emr.terminate_job_flows(JobFlowIds=[first])
    eventually(lambda: clusters.state(first) == "TERMINATED")
    second = operators.CreateClusterOnce(job_flow_overrides=request, **aws_arguments).execute(context)
    assert second != first
    assert clusters.alive() == [second]


def test_another_runs_cluster_is_not_taken(
    request_of: Callable[..., dict[str, Any]],
    aws_arguments: dict[str, Any],
    context: Any,
    clusters: InstantAws,
) -> None:
    for run_key in ("run-a", "run-b"):
        request = request_of(run_key)
        operators.CreateClusterOnce(job_flow_overrides=request, **aws_arguments).execute(context)
    assert len(clusters.alive()) == 2


# Steps


@pytest.fixture
def cluster_id(clusters: InstantAws) -> str:
    return clusters.run(name="steps", tags={RUN_TAG: "steps"})


def test_adding_again_takes_the_step_that_is_there(
    cluster_id: str, aws_arguments: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step = clusters.script("once")
    arguments = {"job_flow_id": cluster_id, "steps": [step], **aws_arguments}
    ids = [operators.AddStepOnce(**arguments).execute(context) for _ in range(2)]
    eventually(lambda: clusters.step_state(cluster_id, ids[0][0]) == "COMPLETED")
    ids.append(operators.AddStepOnce(**arguments).execute(context))
    assert ids == [ids[0]] * 3
    assert len(clusters.emr.list_steps(ClusterId=cluster_id)["Steps"]) == 1


def test_adding_after_the_step_failed_adds_it_again(
    cluster_id: str, aws_arguments: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step = clusters.script("again", exit_code=1)
    arguments = {"job_flow_id": cluster_id, "steps": [step], **aws_arguments}
    (first,) = operators.AddStepOnce(**arguments).execute(context)
    eventually(lambda: clusters.step_state(cluster_id, first) == "FAILED")
    (second,) = operators.AddStepOnce(**arguments).execute(context)
    assert second != first


def test_a_step_of_another_name_is_added(
    cluster_id: str, aws_arguments: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    ids = []
    for name in ("extract", "reduce"):
        step = clusters.script(name)
        ids += operators.AddStepOnce(job_flow_id=cluster_id, steps=[step], **aws_arguments).execute(context)
    assert len(set(ids)) == 2


def test_waiting_for_a_step_defers_until_it_is_done(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    gate = threading.Event()
    step = clusters.script("slow", gate=gate)
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **waiting)
    assert run_to_end(sensor, context, gate)
    assert clusters.step_state(cluster_id, step_id) == "COMPLETED"


@pytest.mark.parametrize("defers", [True, False])
def test_a_failed_step_is_explained_by_its_log(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws, defers: bool
) -> None:
    gate = threading.Event()
    log = "26/11/20 10:00:00 INFO SparkContext: Running\nJobError: no such sample\n"
    step = clusters.script("breaks", stderr=log, exit_code=1, gate=gate if defers else None)
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    if not defers:
        eventually(lambda: clusters.step_state(cluster_id, step_id) == "FAILED")
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **waiting)
    with pytest.raises(AirflowFailException) as caught:
        run_to_end(sensor, context, gate)
    text = str(caught.value)
    assert text.startswith(f"step {step_id} (breaks) is FAILED")
    assert f"s3://{BUCKET}/logs/{cluster_id}/steps/{step_id}/std" in text
    assert text.endswith("JobError: no such sample")
    assert "SparkContext" not in text


def test_a_step_of_a_cluster_that_was_terminated_says_so(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step = clusters.script("long", gate=threading.Event())
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **waiting)
    with pytest.raises(
        AirflowFailException, match=r"is CANCELLED.*cluster j-\w+ is TERMINAT.*Terminated by user"
    ):
        run_to_end(sensor, context)


def test_a_step_leads_to_its_own_log(
    cluster_id: str, waiting: dict[str, Any], clusters: InstantAws, deployed: pytest.MonkeyPatch
) -> None:
    step = clusters.script("talks", stderr="what it says")
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "COMPLETED")
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **waiting)
    link = sensors.StepLogLink()
    folder = f"logs/{cluster_id}/steps/{step_id}/"
    assert link.get_link(sensor, ti_key=None) == (
        f"https://{REGION}.console.aws.amazon.com/s3/buckets/{BUCKET}?region={REGION}&prefix={folder}"
    )
    deployed.setenv("FRUITS_BROWSER_ENDPOINT_URL", "http://localhost:5000")
    bucket, _, key = link.get_link(sensor, ti_key=None).removeprefix("http://localhost:5000/").partition("/")
    log = clusters.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert b"what it says" in gzip.decompress(log)


def test_a_step_that_cannot_be_described_has_an_empty_log_link(waiting: dict[str, Any]) -> None:
    sensor = sensors.StepDone(job_flow_id="j-NONE", step_id="s-NONE", **waiting)
    assert sensors.StepLogLink().get_link(sensor, ti_key=None) == ""


# Limits


def start_step(clusters: InstantAws, cluster_id: str, name: str) -> str:
    """Id of a step that runs until it is cancelled."""
    step = clusters.script(name, gate=threading.Event())
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "RUNNING")
    return step_id


def test_a_step_that_is_over_its_limit_is_cancelled_for_good_with_what_to_do(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step_id = start_step(clusters, cluster_id, "hangs")
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **{**waiting, "limit_seconds": 2})
    with pytest.raises(AirflowFailException) as caught:
        run_to_end(sensor, context)
    text = str(caught.value)
    assert text.startswith(f"step {step_id} (hangs) has run for 0 min, its limit (three times its estimate")
    assert f"s3://{BUCKET}/logs/{cluster_id}/steps/{step_id}/std" in text
    assert "it was cancelled, and the cluster is terminated" in text
    assert "trigger again with this run's run_key" in text
    eventually(lambda: clusters.step_state(cluster_id, step_id) == "CANCELLED")


def test_a_retry_of_the_sensor_does_not_give_a_step_its_limit_again(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step_id = start_step(clusters, cluster_id, "slow")
    time.sleep(1.1)  # AWS's clock is read to a second
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **{**waiting, "limit_seconds": 0.01})
    with pytest.raises(AirflowFailException, match="its limit"):
        sensor.execute(context)  # without another look by a trigger


def test_a_step_that_waits_for_its_turn_is_not_over_its_limit(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    start_step(clusters, cluster_id, "first")
    step = clusters.script("second")
    (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
    time.sleep(1.1)
    sensor = sensors.StepDone(job_flow_id=cluster_id, step_id=step_id, **{**waiting, "limit_seconds": 1})
    with pytest.raises(TaskDeferred):
        sensor.execute(context)
    assert clusters.step_state(cluster_id, step_id) == "PENDING"


def test_a_trigger_polls_until_just_after_the_limit_and_airflows_own_timeout_is_later(
    cluster_id: str, waiting: dict[str, Any], context: Any, clusters: InstantAws
) -> None:
    step_id = start_step(clusters, cluster_id, "waited for")
    sensor = sensors.StepDone(
        job_flow_id=cluster_id, step_id=step_id, **{**waiting, "poke_interval": 1000, "limit_seconds": 9500}
    )
    with pytest.raises(TaskDeferred) as caught:
        sensor.execute(context)
    trigger: Any = caught.value.trigger
    # The limit counts from the step's start: rounding up leaves minutes for a slow machine.
    assert (trigger.waiter_delay, trigger.attempts) == (1000, 11)
    assert caught.value.timeout == timedelta(seconds=11 * 1000 + 300)


def test_a_cluster_that_does_not_start_within_its_limit_fails_for_good_with_what_to_do(
    request_of: Callable[..., dict[str, Any]],
    waiting: dict[str, Any],
    context: Any,
    clusters: InstantAws,
) -> None:
    request = request_of("never-ready", gate=threading.Event())
    cluster_id = clusters.emr.run_job_flow(**request)["JobFlowId"]
    sensor = sensors.ClusterReady(job_flow_id=cluster_id, **{**waiting, "limit_seconds": 1})
    with pytest.raises(AirflowFailException) as caught:
        run_to_end(sensor, context)
    text = str(caught.value)
    assert text.startswith(f"cluster {cluster_id} does not run steps after 0 min, the limit for its start")
    assert "clear the task that created it, and those after it" in text


def test_without_a_limit_the_wait_for_a_cluster_lasts_as_long_as_its_polls(
    aws_arguments: dict[str, Any],
) -> None:
    sensor = sensors.ClusterReady(job_flow_id="j-1", poke_interval=20, max_attempts=90, **aws_arguments)
    assert sensor.limit_seconds == 1800


# The cluster's start


def test_waiting_for_the_cluster_defers_until_it_runs_steps(
    request_of: Callable[..., dict[str, Any]],
    waiting: dict[str, Any],
    context: Any,
    clusters: InstantAws,
) -> None:
    gate = threading.Event()
    cluster_id = clusters.emr.run_job_flow(**request_of("ready", gate=gate))["JobFlowId"]
    assert run_to_end(sensors.ClusterReady(job_flow_id=cluster_id, **waiting), context, gate)
    assert clusters.state(cluster_id) in ("RUNNING", "WAITING")
    assert not run_to_end(sensors.ClusterReady(job_flow_id=cluster_id, **waiting), context)


@pytest.mark.parametrize("defers", [True, False])
def test_a_bootstrap_failure_is_explained(
    request_of: Callable[..., dict[str, Any]],
    waiting: dict[str, Any],
    context: Any,
    clusters: InstantAws,
    defers: bool,
) -> None:
    gate, run_key = threading.Event(), f"bootstrap-{defers}"
    request = request_of(run_key, stderr="no wheels", exit_code=3, gate=gate if defers else None)
    cluster_id = clusters.emr.run_job_flow(**request)["JobFlowId"]
    if not defers:
        eventually(lambda: clusters.state(cluster_id) == "TERMINATED_WITH_ERRORS")
    with pytest.raises(AirflowFailException) as caught:
        run_to_end(sensors.ClusterReady(job_flow_id=cluster_id, **waiting), context, gate)
    text = str(caught.value)
    assert text.startswith(f"cluster {cluster_id} is TERMINAT")
    assert "BOOTSTRAP_FAILURE" in text
    assert f"its logs: s3://{BUCKET}/runs/{run_key}/logs/{cluster_id}/" in text
    assert "Clear the task that created the cluster, and those after it" in text


# Terminating


@pytest.fixture
def terminate(aws_arguments: dict[str, Any]) -> Callable[..., operators.TerminateClusters]:
    def make(run_key: str, attempts: int = 600) -> operators.TerminateClusters:
        return operators.TerminateClusters(
            run_key=run_key, waiter_delay=0.05, waiter_max_attempts=attempts, **aws_arguments
        )

    return make


def test_clusters_are_terminated_by_tag_without_their_ids(
    terminate: Callable[..., Any], context: Any, clusters: InstantAws
) -> None:
    mine = [clusters.run(name=name_of("mine"), tags={RUN_TAG: "mine"}) for _ in range(2)]
    other = clusters.run(name=name_of("other"), tags={RUN_TAG: "other"})
    terminate("mine").execute(context)
    assert [clusters.state(cluster) for cluster in mine] == ["TERMINATED"] * 2
    assert clusters.alive() == [other]


def test_terminating_nothing_is_no_error(terminate: Callable[..., Any], context: Any) -> None:
    terminate("nothing-of-this-run").execute(context)


def test_termination_protection_does_not_keep_a_cluster(
    terminate: Callable[..., Any], context: Any, clusters: InstantAws
) -> None:
    tags = {RUN_TAG: "protected"}
    cluster_id = clusters.run(name=name_of("protected"), tags=tags, Instances={"TerminationProtected": True})
    terminate("protected").execute(context)
    assert clusters.state(cluster_id) == "TERMINATED"


class StuckEmr:
    """An EMR whose only cluster does not end; the local one's end too fast to be seen ending."""

    def get_paginator(self, _: str) -> StuckEmr:
        return self

    def paginate(self, ClusterStates: list[str]) -> list[dict[str, Any]]:
        found = [{"Id": "j-1", "Name": name_of("stuck")}] if "TERMINATING" in ClusterStates else []
        return [{"Clusters": found}]

    def describe_cluster(self, ClusterId: str) -> dict[str, Any]:
        tags = [{"Key": RUN_TAG, "Value": "stuck"}]
        status = {"State": "TERMINATING", "Timeline": {"CreationDateTime": datetime.now(UTC)}}
        return {"Cluster": {"Id": ClusterId, "Tags": tags, "Status": status}}


def test_a_retry_does_not_take_a_cluster_that_is_still_ending_for_ended(
    terminate: Callable[..., Any], context: Any
) -> None:
    operator = terminate("stuck", attempts=1)
    operator.hook = SimpleNamespace(conn=StuckEmr())
    with pytest.raises(AirflowException, match=r"have not ended, .*'j-1': 'TERMINATING'"):
        operator.execute(context)


# Bad input


def test_bad_input_ends_a_task_at_once_without_a_traceback() -> None:
    @errors.fail_on_bad_input
    def work() -> None:
        raise JobError("no bucket: set the Param")

    with pytest.raises(AirflowFailException, match="no bucket: set the Param") as caught:
        work()
    assert caught.value.__suppress_context__


def test_storage_trouble_is_left_for_a_retry() -> None:
    @errors.fail_on_bad_input
    def work() -> None:
        raise StorageError("cannot read s3://b/k: timeout")

    with pytest.raises(StorageError):
        work()


def test_a_result_passes_unchanged() -> None:
    assert errors.fail_on_bad_input(lambda x, *, y: (x, y))(1, y=2) == (1, 2)
