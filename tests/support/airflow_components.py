"""Airflow as in production: API server, scheduler, DAG processor and triggerer, each a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from support.waiting import answer_when

COMMANDS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
ENDED = ("success", "failed")


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
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def until(self, path: str, good: Any, seconds: float) -> Any:
        """The answer of ``path`` once it is good; fail after ``seconds``."""
        return answer_when(lambda: self.call("GET", path), good, seconds, path)


class Components:
    """The four processes on a free port of loopback, from ``with`` on; ``api`` speaks to them.

    Each can be killed and started again by its name.
    """

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        """``environment`` names the home, with a database that is made; ``logs`` takes a file of each."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environment = {
            **environment,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__API_AUTH__JWT_SECRET": "only-for-this-test-on-loopback-0123456789",
            "AIRFLOW__API__WORKERS": "1",
        }
        self.logs = logs
        self.api = Api(port)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Components:
        for name in COMMANDS:
            self.start(name)
        try:
            self.api.until("/api/v2/version", lambda answer: "version" in answer, 600)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for name in self._processes:
                self._signal(name, sent)
            for process in self._processes.values():
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    continue
        for log in sorted(self.logs.iterdir()):
            lines = log.read_text(errors="replace").splitlines()[-5:]
            print(f"--- {log.name}: " + "\n".join(lines))

    def start(self, name: str) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *COMMANDS[name]],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """SIGKILL to a component and what it has started: a task is in a process group of its own."""
        started = psutil.Process(self._processes[name].pid).children(recursive=True)
        self._signal(name, signal.SIGKILL)
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._processes[name].wait()

    def _signal(self, name: str, number: int) -> None:
        try:
            os.killpg(self._processes[name].pid, number)
        except ProcessLookupError:
            return
