"""The runner of a cluster's bootstrap actions and steps, as processes on its node."""

from __future__ import annotations

import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from local_emr.emr.cluster import Cluster, Step
from local_emr.node import logs, processes, s3
from local_emr.node.filesystem import Node
from local_emr.node.step_commands import CommandBuilder, RefusedError
from local_emr.settings import Settings

STEP_LOGS = ("controller", "stdout", "stderr")


class NodeRunner:
    """The Worker (see emr.lifecycle) of one cluster."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self.settings = settings
        self.directory = settings.root / "clusters" / cluster.id
        master = cluster.collection.master.ec2_id
        self.node = Node(settings, self.directory / "node", cluster.id, cluster.region, master)
        self.client = s3.client(settings.s3_endpoint, cluster.region)
        configurations = cluster.request.get("Configurations") or []
        self.builder = CommandBuilder(self.node, configurations, self.client)
        log_uri = cluster.request.get("LogUri")
        self.log_uri = f"{log_uri.rstrip('/').replace('s3n://', 's3://')}/{cluster.id}/" if log_uri else None
        self._lock = threading.Lock()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: dict[str, int] = {}
        self._closed = False

    def prepare(self) -> None:
        """Creates the node. Raises OSError."""
        self.node.prepare()

    def bootstrap(self, number: int, path: str, args: Sequence[str]) -> str | None:
        """Runs one bootstrap action; returns its failure in EMR's words, or None."""
        uri = (
            f"{self.log_uri}node/{self.node.instance_id}/bootstrap-actions/{number}/"
            if self.log_uri
            else None
        )
        files = logs.LogFiles(
            self.node.path(f"mnt/var/log/bootstrap-actions/{number}"), uri, self.client, STEP_LOGS
        )
        work = self.node.path(f"emr/instance-controller/lib/bootstrap-actions/{number}")
        work.mkdir(parents=True, exist_ok=True)
        script = work / Path(path).name
        subject = f"On the master instance ({self.node.instance_id}), bootstrap action {number}"
        try:
            if not path.startswith("s3://"):
                files.note(f"refused {path}: not an s3:// URI", "ERROR")
                return f"{subject} was refused: local EMR runs scripts from s3:// only, not {path}"
            s3.fetch(self.client, path, script)
        except s3.S3Error as error:
            files.note(str(error), "ERROR")
            files.ship()
            return f"{subject} could not be downloaded: {error}"
        files.note(f"running {path} {' '.join(args)}")
        code = self._run(
            f"bootstrap-{number}",
            ["bash", str(script), *args],
            work,
            self.node.environment(),
            files,
            self.settings.bootstrap_seconds,
        )
        files.note(f"ended with exit code {code}")
        files.ship()
        if code is None:
            return f"{subject} timed out executing"
        return f"{subject} returned a non-zero return code" if code else None

    def run_step(self, step: Step) -> dict[str, str] | None:
        """Runs one step until it ends; returns its FailureDetails, or None when it completed."""
        uri = f"{self.log_uri}steps/{step.id}/" if self.log_uri else None
        files = logs.LogFiles(
            self.node.path(f"mnt/var/log/hadoop/steps/{step.id}"), uri, self.client, STEP_LOGS
        )
        work = self.node.path(f"mnt/var/lib/hadoop/steps/{step.id}")
        work.mkdir(parents=True, exist_ok=True)
        env = {**self.node.environment(), "EMR_STEP_ID": step.id}
        try:
            command = self.builder.build(step.jar, step.args, work, env)
        except (RefusedError, s3.S3Error) as error:
            files.note(str(error), "ERROR")
            files.ship()
            return {
                "Reason": "Unknown Error.",
                "Message": str(error),
                "LogFile": files.location("controller"),
            }
        for text in command.notes:
            files.note(text)
        files.note(f"startExec {command.argv}")
        started = time.monotonic()
        try:
            code = self._run(step.id, command.argv, work, command.env, files)
        finally:
            processes.kill_marked("EMR_STEP_ID", step.id)
            shutil.rmtree(work / "tmp", ignore_errors=True)
        files.note(f"waitProcessCompletion ended with exit code {code}")
        files.note(f"total process run time: {time.monotonic() - started:.0f} seconds")
        files.ship()
        return logs.failure(files, code or 0) if code else None

    def cancel(self, step_id: str, force: bool) -> None:
        """Sends SIGTERM to the step's group, or SIGKILL to all processes that it started."""
        number = signal.SIGKILL if force else signal.SIGTERM
        with self._lock:
            self._cancelled[step_id] = number
            process = self._running.get(step_id)
        if process:
            processes.signal_group(process, number)
            if force:
                processes.kill_marked("EMR_STEP_ID", step_id)

    def close(self) -> None:
        """Kills all processes of the cluster; none starts afterwards."""
        with self._lock:
            self._closed = True
            running = list(self._running.values())
        for process in running:
            processes.signal_group(process, signal.SIGKILL)
        processes.kill_marked("EMR_CLUSTER_ID", self.node.cluster_id)

    def remove_node(self) -> None:
        """Removes the node; its logs move to ``log`` in the cluster's folder."""
        source, target = self.node.path("mnt/var/log"), self.directory / "log"
        if source.is_dir() and not target.exists():
            source.rename(target)
        shutil.rmtree(self.node.root, ignore_errors=True)

    def _run(
        self,
        name: str,
        argv: Sequence[str],
        work: Path,
        env: dict[str, str],
        files: logs.LogFiles,
        limit: float | None = None,
    ) -> int | None:
        """Exit code of a command, None if it runs for ``limit`` seconds; uploads its logs meanwhile."""
        with self._lock:
            if self._closed or name in self._cancelled:
                return -signal.SIGKILL
            process = processes.start(argv, work, env, files.path("stdout"), files.path("stderr"))
            self._running[name] = process
        files.note(f"ProcessRunner started child process : pid {process.pid}")
        deadline = time.monotonic() + limit if limit else None
        try:
            while True:
                remaining = deadline - time.monotonic() if deadline else self.settings.log_seconds
                try:
                    return _shell_exit_code(
                        process.wait(timeout=max(0.0, min(remaining, self.settings.log_seconds)))
                    )
                except subprocess.TimeoutExpired:
                    files.ship()
                if deadline and time.monotonic() >= deadline:
                    return None
        finally:
            with self._lock:
                del self._running[name]
            if process.poll() is None:
                processes.signal_group(process, signal.SIGKILL)
                process.wait()


def _shell_exit_code(code: int) -> int:
    """128 plus the number of the signal that ended a process, as in EMR's logs, else ``code`` itself."""
    return 128 - code if code < 0 else code
