"""A stack of containers under a name, ports and volumes of its own, and Airflow's API in it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from support.waiting import answer_when

DAG_ID = "fruit_features"
BUCKET = "fruits-local"
# CI machines are slow and shared: these only say when there is no hope left.
UP_SECONDS = 1200
RUN_SECONDS = 900
CALL_SECONDS = 120


def no_engine() -> str:
    """Why there is no Docker engine to run containers on, or an empty text."""
    if not shutil.which("docker"):
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            return f"no Docker engine with compose answers: {done.stderr.strip().splitlines()[-1]}"
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Api:
    """Airflow's public API, as a script would use it."""

    url: str
    user: str
    password: str
    _token: str = field(default="", repr=False)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        if not self._token and path != "/auth/token":
            login = {"username": self.user, "password": self.password}
            self._token = self.call("POST", "/auth/token", login)["access_token"]
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as answer:
            return json.loads(answer.read())

    def trigger(self, **params: Any) -> DagRun:
        """Trigger the DAG, once it is known; the other Params keep the form's defaults."""
        answer_when(
            lambda: self.call("GET", f"/api/v2/dags/{DAG_ID}"),
            lambda dag: dag["dag_id"] == DAG_ID,
            UP_SECONDS,
            f"DAG {DAG_ID} known to Airflow",
        )
        body = {"logical_date": None, "conf": params}
        run = self.call("POST", f"/api/v2/dags/{DAG_ID}/dagRuns", body)
        return DagRun(self, run["dag_run_id"])


@dataclass(frozen=True)
class DagRun:
    """A run of the DAG."""

    api: Api
    id: str

    @property
    def path(self) -> str:
        return f"/api/v2/dags/{DAG_ID}/dagRuns/{quote(self.id)}"

    def wait(self) -> str:
        """Its state when it has ended."""
        ended = answer_when(
            lambda: self.api.call("GET", self.path),
            lambda run: run["state"] in ("success", "failed"),
            RUN_SECONDS,
            f"end of run {self.id}",
        )
        return str(ended["state"])

    def tasks(self) -> dict[str, str | None]:
        """State by task."""
        found = self.api.call("GET", f"{self.path}/taskInstances")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}

    def returned(self, task: str) -> Any:
        entry = f"{self.path}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        return self.api.call("GET", entry)["value"]

    def log(self, task: str, attempt: int = 1) -> str:
        found = self.api.call("GET", f"{self.path}/taskInstances/{task}/logs/{attempt}")
        return "\n".join(str(line.get("event", line)) for line in found["content"])


@dataclass
class ComposeStack:
    """One project of docker-compose.yaml; ``settings`` are what its .env says beside the defaults.

    ``url``, ``user``, ``password`` and ``api`` lead to its Airflow.
    """

    repo: Path
    folder: Path  # where its .env lies
    name: str
    settings: dict[str, str]

    def __post_init__(self) -> None:
        ports = {name: str(free_port()) for name in ("AIRFLOW_PORT", "LOCAL_AWS_PORT", "LOCAL_EMR_PORT")}
        # No image under the name that a developer's own stack has.
        fixed = {"FRUITS_IMAGE": "fruit-features:test", "FRUITS_WEIGHTS": "random:0"}
        lines = {**fixed, **ports, **self.settings}
        self.env_file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        made = [sys.executable, str(self.repo / "docker" / "make_env.py"), "--file", str(self.env_file)]
        subprocess.run(made, check=True, capture_output=True)

    @property
    def env_file(self) -> Path:
        return self.folder / ".env"

    @cached_property
    def env(self) -> dict[str, str]:
        """What .env says."""
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.env['AIRFLOW_PORT']}"

    @property
    def user(self) -> str:
        return self.env["UI_USER"]

    @property
    def password(self) -> str:
        return self.env["UI_PASSWORD"]

    @cached_property
    def api(self) -> Api:
        return Api(self.url, self.user, self.password)

    def compose(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """``docker compose`` for this project, without what the caller's environment would change in it."""
        done = subprocess.run(
            ["docker", "compose", "--env-file", str(self.env_file), "--project-name", self.name, *args],
            cwd=self.repo,
            env={name: value for name, value in os.environ.items() if name not in self.env},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{args}: {done.stdout[-1500:]}{done.stderr[-1500:]}"
        return done

    def up(self) -> None:
        """Build, start and wait until every service is healthy."""
        wait = ("--detach", "--wait", "--wait-timeout", str(UP_SECONDS))
        done = self.compose("up", *wait, check=False)
        if done.returncode:
            shown = self.compose("ps", "--all", check=False).stdout
            logs = self.compose("logs", "--no-color", "--tail", "40", check=False).stdout
            raise AssertionError(f"{done.stderr[-1500:]}\n{shown}\n{logs}")

    def down(self) -> None:
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "30")

    def containers(self) -> dict[str, dict[str, Any]]:
        """``docker inspect`` of each container, by service; those that have ended as well."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        label = "com.docker.compose.service"
        return {found["Config"]["Labels"][label]: found for found in json.loads(done.stdout)}

    def python(self, service: str, code: str) -> str:
        """Output of a few lines of Python in a service's container."""
        return self.compose("exec", "-T", service, "python", "-c", code).stdout


def summary_in_s3(stack: ComposeStack, run: DagRun) -> dict[str, Any]:
    """``summary.json`` of a run, as the services read it."""
    key = f"runs/{run.returned('preflight')['run_key']}/summary.json"
    found = f"boto3.client('s3').get_object(Bucket={BUCKET!r}, Key={key!r})"
    code = f"import boto3; print({found}['Body'].read().decode())"
    return json.loads(stack.python("scheduler", code))


def running(stack: ComposeStack) -> Iterator[ComposeStack]:
    """The stack, started; down again with its volumes whatever happens."""
    try:
        stack.up()
        yield stack
    finally:
        stack.down()
