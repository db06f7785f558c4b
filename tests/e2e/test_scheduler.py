"""A run as in production: API server, scheduler, DAG processor and triggerer, each a process."""

from __future__ import annotations

import json
import re
import shutil
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.sample.drawn_images import draw_folder
from support.airflow_components import ENDED, Api, Components
from support.stages import Stage

pytestmark = pytest.mark.usefixtures("nothing_left_alive")

DAG, FOLLOWER = f"/api/v2/dags/{demo_run.DAG_ID}", "/api/v2/dags/follow_fruit_features"
RUN = {"alpha": 0.35, "weights": "random:0"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_folder(folder, per_label=10)
    return folder


@pytest.fixture(scope="module")
def airflow(stage: Stage, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The four components, with the stage's local AWS and a database of their own.

    The DAG has a schedule whose last time was yesterday and whose next is in a year: Airflow makes up
    for a first one that is so near, and there is one scheduled run. The example follows it.
    """
    examples, weekly = tmp_path_factory.mktemp("examples"), tmp_path_factory.mktemp("deployment") / "p.json"
    shutil.copy(Path(stage.environment["FRUITS_HOME"]) / "examples" / "follow_up_dag.py", examples)
    weekly.write_text(json.dumps({**RUN, "source": str(source), "per_label": 5, "components": 10}))
    # The stage's Airflow knows the DAG already, without a schedule, and unpaused.
    made = replace(stage.demo, work=tmp_path_factory.mktemp("scheduled"))
    own = demo_run.airflow_environment(made, stage.aws)
    demo_run.migrate(made, own)
    environment = {
        **own,
        "FRUITS_SCHEDULE": f"{datetime.now(UTC) - timedelta(days=1):%M %H %d %m} *",
        "FRUITS_SCHEDULE_PARAMS": str(weekly),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(
            [bundle("dags-folder", None), bundle("examples", examples)]
        ),
    }
    with Components(environment, tmp_path_factory.mktemp("components")) as components:
        yield components.api


def bundle(name: str, path: Path | None) -> dict[str, Any]:
    """A folder of DAGs, as Airflow is told of it; without a path, its own."""
    kind = "airflow.dag_processing.bundles.local.LocalDagBundle"
    return {"name": name, "classpath": kind, "kwargs": {"path": str(path)} if path else {}}


class Runs(NamedTuple):
    """Two runs of the DAG that ended: one by the clock, one triggered while it was under way."""

    scheduled: str  # their ids
    triggered: str
    states: dict[str, str]
    most_at_once: int


@pytest.fixture(scope="module")
def runs(airflow: Api, source: Path) -> Runs:
    for dag in (FOLLOWER, DAG):  # what follows must be awake before there is something to follow
        found = airflow.until(dag, lambda answer: "is_paused" in answer, 300)
        assert found["is_paused"], "nothing with a schedule starts unasked"
        airflow.call("PATCH", f"{dag}?update_mask=is_paused", {"is_paused": False})
    assert airflow.call("GET", "/api/v2/importErrors")["total_entries"] == 0
    listed = airflow.until(f"{DAG}/dagRuns?run_type=scheduled", lambda answer: answer["dag_runs"], 300)
    (scheduled,) = listed["dag_runs"]
    body = {"logical_date": None, "conf": {"source": str(source), **RUN, "components": 20}}
    triggered = airflow.call("POST", f"{DAG}/dagRuns", body)
    counts = [0]

    def ended(answer: Any) -> bool:
        states = [run["state"] for run in answer["dag_runs"]]
        counts.append(states.count("running"))
        return all(state in ENDED for state in states)

    last = airflow.until(f"{DAG}/dagRuns", ended, 1200)
    states = {run["dag_run_id"]: run["state"] for run in last["dag_runs"]}
    return Runs(scheduled["dag_run_id"], triggered["dag_run_id"], states, max(counts))


def run_path(run_id: str, dag: str = "") -> str:
    return f"{dag or DAG}/dagRuns/{quote(run_id)}"


def result(airflow: Api, run: str, task: str) -> Any:
    """What a task of a run returned."""
    path = f"{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
    return airflow.call("GET", path)["value"]


def test_a_triggered_run_goes_green_with_deferred_sensors(airflow: Api, runs: Runs):
    path = run_path(runs.triggered)
    tasks = airflow.call("GET", f"{path}/taskInstances")["task_instances"]
    states = {task["task_id"]: task["state"] for task in tasks}
    assert runs.states[runs.triggered] == "success", states
    assert set(states.values()) == {"success"}
    assert {task["task_id"]: task["try_number"] for task in tasks}["create_cluster"] == 1
    summary = result(airflow, path, "summarise")
    assert (summary["images"], summary["features"], summary["components"]) == (120, 120, 20)


def test_the_log_of_a_deferred_sensor_tells_its_progress_and_leads_to_the_steps_own(airflow: Api, runs: Runs):
    deferred = 0
    for run in (runs.scheduled, runs.triggered):
        for task, progress in (("wait_for_extraction", "images "), ("wait_for_pca", "shards ")):
            path = f"{run_path(run)}/taskInstances/{task}"
            attempt = airflow.call("GET", path)["try_number"]
            log = airflow.call("GET", f"{path}/logs/{attempt}?full_content=true")["content"]
            told = [str(line["event"]) for line in log]
            links = airflow.call("GET", f"{path}/links")["extra_links"]
            assert re.search(r"/logs/j-\w+/steps/s-\w+/", links["Step log"]), links
            # A small step on a slow machine is over before its sensor looks: then nothing is waited for.
            if not any(line.startswith("step s-") for line in told):
                continue
            deferred += 1
            assert any(line.startswith("step s-") and line.endswith("is COMPLETED") for line in told), told
            assert any(line.startswith(progress) for line in told), told
    assert deferred, "no sensor was deferred"


def test_a_scheduled_run_takes_the_params_of_its_file(airflow: Api, runs: Runs):
    assert runs.scheduled.startswith("scheduled__")
    assert runs.states[runs.scheduled] == "success"
    summary = result(airflow, run_path(runs.scheduled), "summarise")
    assert (summary["images"], summary["components"]) == (60, 10)
    assert summary["run_key"].startswith("scheduled__")


def test_a_second_run_waits_until_the_first_has_ended(runs: Runs):
    assert runs.most_at_once <= 1
    assert runs.states[runs.triggered] == "success"


def test_another_dag_follows_and_reads_the_runs_prefix_from_the_event(airflow: Api, runs: Runs):
    """Each run tells of itself, and the follower's own check holds the rows against what was told."""
    keys = {
        result(airflow, run_path(run), "summarise")["run_key"] for run in (runs.scheduled, runs.triggered)
    }
    followed: dict[str, Any] = {}

    def both(answer: Any) -> bool:
        for run in answer["dag_runs"]:
            if run["state"] == "success":
                path = run_path(run["dag_run_id"], FOLLOWER)
                followed.update({told["run_key"]: told for told in result(airflow, path, "runs")})
        return set(followed) == keys

    airflow.until(f"{FOLLOWER}/dagRuns", both, 300)
    told = {told["components"]: told for told in followed.values()}
    assert (told[10]["images"], told[20]["images"]) == (60, 120)
    assert 0 < told[10]["variance_kept"] < told[20]["variance_kept"] <= 1


def test_clearing_a_scheduled_run_resumes_it(airflow: Api, runs: Runs, stage: Stage):
    path = run_path(runs.scheduled)
    features = stage.run_storage(result(airflow, path, "summarise")["run_key"])
    before = {item.key: item.version for item in features.list("features") if item.key.endswith(".parquet")}
    assert len(before) >= 2
    gone, *kept = sorted(before)
    features.delete([gone, "features/_SUCCESS"])
    airflow.call("POST", f"{path}/clear", {"dry_run": False, "only_failed": False})
    last = f"{path}/taskInstances/notify_run_ended"
    airflow.until(last, lambda task: task["try_number"] > 1 and task["state"] in ENDED, 600)
    assert airflow.until(path, lambda answer: answer["state"] in ENDED, 300)["state"] == "success"
    after = {item.key: item.version for item in features.list("features")}
    assert gone in after
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}


def test_a_failed_run_stays_failed_though_its_end_was_told_and_its_error_is_kept(airflow: Api):
    """The error that a message shows is kept by a callback, which runs after the task's own end."""
    dag = f"/api/v2/dags/{demo_run.DAG_ID}"
    conf = {"source": "/no/such/folder", "weights": "random:0"}
    run = airflow.call("POST", f"{dag}/dagRuns", {"logical_date": None, "conf": conf})
    path = f"{dag}/dagRuns/{quote(run['dag_run_id'])}"
    ended = airflow.until(path, lambda answer: answer["state"] in ENDED, 300)
    tasks = airflow.call("GET", f"{path}/taskInstances")["task_instances"]
    states = {task["task_id"]: task["state"] for task in tasks}
    assert ended["state"] == "failed"
    assert (states["preflight"], states["notify_run_ended"]) == ("failed", "success")
    assert set(states.values()) == {"failed", "success", "upstream_failed"}
    kept = airflow.call("GET", f"{path}/taskInstances/preflight/xcomEntries/error?deserialize=true")["value"]
    assert "/no/such/folder does not exist" in kept


def test_values_off_limits_are_refused_with_the_reason(airflow: Api):
    for name, value, reason in (
        ("components", 0, "0 is less than the minimum of 1"),
        ("components", "fifty", "'fifty' is not of type"),
        ("variance", 1, "1 is greater than or equal to the maximum of 1"),
        ("shape", "huge", "'huge' is not one of"),
        ("backbone", "vgg16", "'vgg16' is not one of"),
        ("bucket", "s3://team", "'s3://team' does not match"),
        ("run_key", "../up", "'../up' does not match"),
        ("max_cost_usd", -1, "-1 is less than or equal to the minimum of 0"),
        ("notify", "sometimes", "'sometimes' is not one of"),
    ):
        body = {"logical_date": None, "conf": {"source": "/x", name: value}}
        with pytest.raises(urllib.error.HTTPError) as refused:
            airflow.call("POST", f"{DAG}/dagRuns", body)
        answer = json.loads(refused.value.read())["detail"]
        assert refused.value.code == 400
        assert name in answer
        assert reason in answer
