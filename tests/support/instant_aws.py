"""The local AWS in this process, whose clusters run no process.

A step or a bootstrap action completes at once unless a test has said otherwise of its script:

    gate = threading.Event()
    step = aws.script("slow", gate=gate)                         # runs until the gate opens
    step = aws.script("breaks", stderr="no sample", exit_code=1)  # fails; EMR's logs have its output
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from local_emr.emr.cluster import Cluster, Step
from local_emr.node import logs, s3
from local_emr.server import app
from support.local_aws import SCRIPT_RUNNER, LocalAws, step

_LOGS = ("controller", "stdout", "stderr")


@dataclass(frozen=True)
class Script:
    """What a step or a bootstrap action does: it waits for ``gate``, writes its logs, and ends."""

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    gate: threading.Event | None = None


class InstantWorker:
    """Runs a cluster's scripts as tests have described them; what has no description completes."""

    def __init__(self, cluster: Cluster, scripts: dict[str, Script], endpoint: str, folder: Path) -> None:
        self._scripts = scripts
        self._folder = folder / cluster.id
        self._client = s3.client(endpoint, cluster.region)
        self._node = cluster.collection.master.ec2_id
        uri = cluster.request.get("LogUri")
        self._log_uri = f"{uri.rstrip('/')}/{cluster.id}/" if uri else None
        self._ended: dict[str, threading.Event] = {}  # by step, and "" for the cluster
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """There is no node."""

    def bootstrap(self, number: int, path: str, args: Sequence[str]) -> str | None:
        failure = self._run("", path, f"node/{self._node}/bootstrap-actions/{number}/")
        if not failure:
            return None
        where = f"On the master instance ({self._node}), bootstrap action {number}"
        return f"{where} returned a non-zero return code"

    def run_step(self, step: Step) -> dict[str, str] | None:
        script = step.args[0] if step.jar == SCRIPT_RUNNER else ""
        return self._run(step.id, script, f"steps/{step.id}/")

    def cancel(self, step_id: str, force: bool) -> None:
        self._end_of(step_id).set()

    def close(self) -> None:
        with self._lock:
            self._ended.setdefault("", threading.Event())
            for event in self._ended.values():
                event.set()

    def remove_node(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end_of(self, name: str) -> threading.Event:
        with self._lock:
            return self._ended.setdefault(name, threading.Event())

    def _run(self, name: str, path: str, folder: str) -> dict[str, str] | None:
        script = self._scripts.get(path, Script())
        ended, closed = self._end_of(name), self._end_of("")
        while script.gate and not script.gate.wait(0.01):
            if ended.is_set() or closed.is_set():
                return {"Reason": "Unknown Error.", "Message": "it was ended"}
        files = logs.LogFiles(
            self._folder / folder, f"{self._log_uri}{folder}" if self._log_uri else None, self._client, _LOGS
        )
        files.path("stdout").write_text(script.stdout)
        files.path("stderr").write_text(script.stderr)
        files.note(f"ended with exit code {script.exit_code}")
        files.ship()
        return logs.failure(files, script.exit_code) if script.exit_code else None


class InstantAws(LocalAws):
    """A local AWS that serves between ``with`` and its end; a process has one at a time."""

    def __init__(self) -> None:
        self._scripts: dict[str, Script] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="instant-aws-"))
        self._server = app.LocalAws(
            lambda cluster: InstantWorker(cluster, self._scripts, self.endpoint, self._folder)
        )
        super().__init__(self._server.endpoint)

    def __enter__(self) -> InstantAws:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def put_script(self, key: str, script: Script) -> str:
        """URI of a script that does what ``script`` says."""
        uri = self.put(key, "#!/bin/bash\n")
        self._scripts[uri] = script
        return uri

    def script(self, name: str, **does: Any) -> dict[str, Any]:
        """A step that does what a Script of these fields says; without any, it completes at once."""
        uri = self.put_script(f"scripts/{name}.sh", Script(**does))
        return step(SCRIPT_RUNNER, uri, name=name)
