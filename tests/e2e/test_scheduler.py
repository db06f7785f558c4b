"""A run as in production: API server, scheduler, DAG processor and triggerer, each a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from stage import Stage

from fruit_pipeline import demo
from fruit_pipeline.drawn_images import draw_folder

pytestmark = pytest.mark.usefixtures("nothing_left_alive")

COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}


class Api:
    """Airflow's public API, as a script would use it."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self._token = ""

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if not self._token and path != "/auth/token":
            self._token = self.call("GET", "/auth/token")["access_token"]
        request = urllib.request.Request(
            self._base + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def until(self, path: str, good: Any, seconds: float) -> Any:
        """Call ``path`` until ``good`` says so; fail after ``seconds``."""
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            try:
                last = self.call("GET", path)
                if good(last):
                    return last
            except (urllib.error.URLError, ConnectionError) as error:
                last = error
            time.sleep(1)
        raise AssertionError(f"{path} after {seconds} s: {last}")


@pytest.fixture(scope="module")
def airflow(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The four components on a free port of loopback, with the stage's database and local AWS."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **stage.environment,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-on-loopback-0123456789",
        "AIRFLOW__API__WORKERS": "1",
    }
    logs = tmp_path_factory.mktemp("components")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "airflow", *command],
            env=environment,
            stdout=(logs / f"{name}.log").open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        for name, command in COMPONENTS.items()
    ]
    api = Api(port)
    try:
        api.until("/api/v2/version", lambda answer: "version" in answer, 120)
        yield api
    finally:
        _stop(processes)
        for log in logs.iterdir():
            print(f"--- {log.name}: {_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-5:])


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for sent in (signal.SIGTERM, signal.SIGKILL):
        for process in processes:
            try:
                os.killpg(process.pid, sent)
            except ProcessLookupError:
                continue
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                continue


def test_a_triggered_run_goes_green_with_deferred_sensors(airflow: Api, stage: Stage, tmp_path: Path):
    dag = f"/api/v2/dags/{demo.DAG_ID}"
    airflow.until(dag, lambda answer: answer["dag_id"] == demo.DAG_ID, 120)
    airflow.call("PATCH", f"{dag}?update_mask=is_paused", {"is_paused": False})
    assert airflow.call("GET", "/api/v2/importErrors")["total_entries"] == 0

    draw_folder(tmp_path / "images", per_label=10)
    conf = {"source": str(tmp_path / "images"), "alpha": 0.35, "weights": "random:0", "components": 20}
    run = airflow.call("POST", f"{dag}/dagRuns", {"logical_date": None, "conf": conf})
    path = f"{dag}/dagRuns/{quote(run['dag_run_id'])}"
    ended = airflow.until(path, lambda answer: answer["state"] in ("success", "failed"), 300)
    tasks = airflow.call("GET", f"{path}/taskInstances")["task_instances"]
    states = {task["task_id"]: task["state"] for task in tasks}
    assert ended["state"] == "success", states
    assert set(states.values()) == {"success"}
    assert {task["task_id"]: task["try_number"] for task in tasks}["create_cluster"] == 1
    entry = f"{path}/taskInstances/summarise/xcomEntries/return_value?deserialize=true"
    summary = airflow.call("GET", entry)["value"]
    assert (summary["images"], summary["features"], summary["components"]) == (120, 120, 20)


def test_a_failed_run_stays_failed_though_its_end_was_told_and_its_error_is_kept(airflow: Api):
    """The error that a message shows is kept by a callback, which runs after the task's own end."""
    dag = f"/api/v2/dags/{demo.DAG_ID}"
    conf = {"source": "/no/such/folder", "weights": "random:0"}
    run = airflow.call("POST", f"{dag}/dagRuns", {"logical_date": None, "conf": conf})
    path = f"{dag}/dagRuns/{quote(run['dag_run_id'])}"
    ended = airflow.until(path, lambda answer: answer["state"] in ("success", "failed"), 120)
    tasks = airflow.call("GET", f"{path}/taskInstances")["task_instances"]
    states = {task["task_id"]: task["state"] for task in tasks}
    assert ended["state"] == "failed"
    assert (states["guard"], states["say_ended"]) == ("failed", "success")
    assert set(states.values()) == {"failed", "success", "upstream_failed"}
    kept = airflow.call("GET", f"{path}/taskInstances/guard/xcomEntries/error?deserialize=true")["value"]
    assert "/no/such/folder does not exist" in kept


def test_values_off_limits_are_refused_with_the_reason(airflow: Api):
    body = {"logical_date": None, "conf": {"source": "/x", "components": 0}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        airflow.call("POST", f"/api/v2/dags/{demo.DAG_ID}/dagRuns", body)
    assert refused.value.code == 400
    assert "components" in refused.value.read().decode()
