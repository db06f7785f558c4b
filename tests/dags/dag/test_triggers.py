"""The triggerer waits for clusters and steps of the local AWS, and log states and progress."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.emr import EmrHook
from botocore.exceptions import ClientError, EndpointConnectionError

from fruit_pipeline.dag import triggers
from fruit_pipeline.dag.triggers import ClusterTrigger, StepTrigger
from fruit_pipeline.run.progress import ExtractionFollower
from image_features.contract import MARKER, shard_key
from support.instant_aws import InstantAws, Script
from support.local_aws import BUCKET, REGION
from support.processes import python
from support.waiting import eventually


@pytest.fixture
def arguments(connection: str) -> dict[str, Any]:
    return {"aws_conn_id": connection, "region_name": REGION, "waiter_delay": 0.05, "attempts": 12000}


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the triggers have logged so far."""
    caplog.set_level(logging.INFO, logger=triggers.__name__)

    def read() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == triggers.__name__]

    return read


def as_sent(trigger: Any) -> Any:
    """The trigger as the triggerer makes it again from the database."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))


async def _event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


def run(trigger: Any) -> dict[str, Any]:
    return asyncio.run(asyncio.wait_for(_event(trigger), 600))


@pytest.fixture
def cluster_id(clusters: InstantAws) -> str:
    return clusters.run(name="triggers")


@pytest.fixture
def add_step(clusters: InstantAws, cluster_id: str) -> Callable[[str, threading.Event], str]:
    def add(name: str, gate: threading.Event) -> str:
        step = clusters.script(name, gate=gate)
        (step_id,) = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])["StepIds"]
        return step_id

    return add


GIVEN: dict[str, Any] = {
    "job_flow_id": "j-1",
    "waiter_delay": 5,
    "attempts": 7,
    "aws_conn_id": "conn",
    "region_name": "eu-north-1",
}


@pytest.mark.parametrize(
    "trigger",
    [
        ClusterTrigger(**GIVEN),
        StepTrigger("s-1", "pca", "s3://b-1/runs/r", **GIVEN),
        StepTrigger("s-1", **GIVEN),
    ],
)
def test_a_trigger_loses_nothing_on_its_way_to_the_triggerer(trigger: Any) -> None:
    made = as_sent(trigger)
    assert type(made) is type(trigger)
    public = {name: value for name, value in vars(trigger).items() if not name.startswith("_")}
    assert public.items() >= GIVEN.items()
    assert {name: getattr(made, name) for name in public} == public


def test_the_triggerer_imports_nothing_heavy_for_a_trigger() -> None:
    code = """
import sys
import fruit_pipeline.dag.triggers
print(sorted({"pyarrow", "numpy", "tensorflow", "pyspark"} & set(sys.modules)))"""
    assert python(code).splitlines()[-1] == "[]"


def test_a_cluster_that_starts_costs_a_line_a_state(
    clusters: InstantAws, arguments: dict[str, Any], lines: Callable[[], list[str]]
) -> None:
    gate = threading.Event()
    script = clusters.put_script("scripts/gate.sh", Script(gate=gate))
    bootstrap = {"Name": "gate", "ScriptBootstrapAction": {"Path": script}}
    cluster_id = clusters.run(name="starts", BootstrapActions=[bootstrap])
    eventually(lambda: clusters.state(cluster_id) == "BOOTSTRAPPING")
    trigger = ClusterTrigger(job_flow_id=cluster_id, **{**arguments, "attempts": 3})
    assert run(as_sent(trigger))["status"] == "timeout"
    (line,) = lines()
    assert line.startswith(f"cluster {cluster_id} is BOOTSTRAPPING")
    gate.set()
    assert run(as_sent(ClusterTrigger(job_flow_id=cluster_id, **arguments)))["status"] == "success"
    assert lines()[-1].startswith((f"cluster {cluster_id} is RUNNING", f"cluster {cluster_id} is WAITING"))
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")
    event = run(as_sent(ClusterTrigger(job_flow_id=cluster_id, **arguments)))
    assert event["status"] == "success"
    assert "is TERMINATED" in event["message"], "the sensor explains it"


@pytest.fixture
def stood(clusters: InstantAws, standing_run: Path) -> str:
    """A run in the bucket with its sample, one shard and its rejects."""
    root = "runs/followed"
    for key in clusters.keys(root):
        clusters.s3.delete_object(Bucket=BUCKET, Key=f"{root}/{key}")
    for key in (f"sample/{MARKER}", f"features/{shard_key(0)}"):
        clusters.put(f"{root}/{key}", (standing_run / key).read_bytes())
    return f"s3://{BUCKET}/{root}"


def test_a_steps_states_and_progress_are_logged(
    clusters: InstantAws,
    add_step: Callable[[str, threading.Event], str],
    arguments: dict[str, Any],
    lines: Callable[[], list[str]],
    standing_run: Path,
    stood: str,
) -> None:
    """While the step runs it writes its other shards; each is put when the one before was told of."""
    first, gate = threading.Event(), threading.Event()
    add_step("first", first)
    step_id = add_step("extract", gate)
    trigger = StepTrigger(
        job_flow_id=clusters.alive()[0], step_id=step_id, stage="extraction", run_uri=stood, **arguments
    )

    async def follow() -> dict[str, Any]:
        event = asyncio.create_task(_event(as_sent(trigger)))

        async def told(text: str) -> None:
            for _ in range(60_000):
                if any(text in line for line in lines()):
                    return
                assert not event.done(), event
                await asyncio.sleep(0.01)
            raise AssertionError(f"no {text!r} in {lines()}")

        def put(folder: str, number: int) -> None:
            body = (standing_run / folder / shard_key(number)).read_bytes()
            clusters.put(f"runs/followed/{folder}/{shard_key(number)}", body)

        await told("PENDING: it waits for its turn")
        first.set()
        await told("images 12 / 50")
        for reject in sorted((standing_run / "rejects").iterdir()):
            clusters.put(f"runs/followed/rejects/{reject.name}", reject.read_bytes())
        put("features", 1)
        await told("images 24 / 50")
        for number in range(2, len(list((standing_run / "features").glob("shard-*")))):
            put("features", number)
        gate.set()
        return await event

    event = asyncio.run(asyncio.wait_for(follow(), 600))
    assert event["status"] == "success"
    states = [line.rpartition(" is ")[2] for line in lines() if line.startswith("step ")]
    assert states == ["PENDING: it waits for its turn", "RUNNING", "COMPLETED"], "each said once"
    counts = [line for line in lines() if line.startswith("images")]
    assert counts == list(dict.fromkeys(counts)), "no line is repeated"
    assert counts[-1].startswith("images 50 / 50"), "the end is told too"
    assert counts[-1].endswith("rejects 2")


def test_an_unreadable_progress_is_warned_about_once_and_the_wait_goes_on(
    clusters: InstantAws,
    add_step: Callable[[str, threading.Event], str],
    arguments: dict[str, Any],
    lines: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fruit_pipeline.run.progress._LEAST_SECONDS", 0.05)  # more looks in less time
    gate = threading.Event()
    step_id = add_step("extract", gate)
    eventually(lambda: clusters.step_state(clusters.alive()[0], step_id) == "RUNNING")
    looks: list[Any] = []
    inner = ExtractionFollower.poll

    def note(*arguments: Any) -> Any:
        looks.append(arguments)
        if len(looks) == 3:
            gate.set()
        return inner(*arguments)

    monkeypatch.setattr(ExtractionFollower, "poll", note)
    trigger = StepTrigger(
        job_flow_id=clusters.alive()[0],
        step_id=step_id,
        stage="extraction",
        run_uri=f"s3://{BUCKET}/runs/no-such-run",
        **arguments,
    )
    assert run(as_sent(trigger))["status"] == "success"
    warnings = [line for line in lines() if "the progress cannot be read now" in line]
    assert len(looks) >= 3
    assert len(warnings) == 1
    assert f"s3://{BUCKET}/runs/no-such-run/sample has no {MARKER}" in warnings[0]


def test_slow_progress_reading_does_not_delay_the_end_of_the_wait(
    clusters: InstantAws,
    add_step: Callable[[str, threading.Event], str],
    arguments: dict[str, Any],
    stood: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reading the progress hangs until the trigger has ended, and the trigger still ends."""
    monkeypatch.setattr(triggers, "_LAST_PROGRESS_SECONDS", 0.1)
    gate, over = threading.Event(), threading.Event()

    def stuck(*_: Any) -> Any:
        gate.set()
        over.wait(300)
        return "never said"

    monkeypatch.setattr(StepTrigger, "_progress", stuck)
    step_id = add_step("extract", gate)
    trigger = StepTrigger(
        job_flow_id=clusters.alive()[0], step_id=step_id, stage="extraction", run_uri=stood, **arguments
    )

    async def follow() -> dict[str, Any]:
        event = await _event(trigger)
        over.set()
        return event

    assert asyncio.run(asyncio.wait_for(follow(), 600))["status"] == "success"


class Emr:
    """Answers of EMR that the local one does not give; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def describe_step(self, **_: str) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return {"Step": {"Name": "extract", "Status": {"State": answer}}}


def client_error(code: str, status: int) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "DescribeStep")


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Run a trigger against an EMR of the test's."""

    def wait(*answers: Any) -> dict[str, Any]:
        @asynccontextmanager
        async def connection() -> AsyncIterator[Emr]:
            yield Emr(*answers)

        async def get(_: EmrHook) -> Any:
            return connection()

        monkeypatch.setattr(EmrHook, "get_async_conn", get)
        return run(
            StepTrigger(job_flow_id="j-1", step_id="s-1", **{**arguments, "waiter_delay": 0, "attempts": 5})
        )

    return wait


@pytest.mark.parametrize(
    "trouble",
    [
        client_error("ThrottlingException", 400),
        client_error("503", 503),
        EndpointConnectionError(endpoint_url="https://x"),
    ],
)
def test_a_transient_error_does_not_end_the_wait_and_is_logged_once(
    trouble: Exception, answering: Callable[..., dict[str, Any]], lines: Callable[[], list[str]]
) -> None:
    assert answering("RUNNING", trouble, trouble, "RUNNING", "COMPLETED")["status"] == "success"
    said = [line.rpartition(" is ")[2] for line in lines()]
    assert said[0] == said[2] == "RUNNING"
    assert "EMR does not answer now" in lines()[1]
    assert said[3:] == ["COMPLETED"]


def test_a_refusal_ends_the_wait_with_its_reason(answering: Callable[..., dict[str, Any]]) -> None:
    event = answering("RUNNING", client_error("AccessDeniedException", 400))
    assert event["status"] == "error"
    assert "AccessDeniedException" in event["message"]


def test_a_trigger_ends_with_timeout_after_its_attempts(answering: Callable[..., dict[str, Any]]) -> None:
    assert answering("RUNNING") == {"status": "timeout", "message": "step s-1 (extract) is RUNNING"}
