"""Starts commands in new process groups, and ends them with all processes that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

PROC = Path("/proc")


def start(
    argv: Sequence[str], cwd: Path, env: dict[str, str], stdout: Path, stderr: Path
) -> subprocess.Popen[bytes]:
    """Starts ``argv`` (never through a shell) in a new session, stdin closed, output to files."""
    with stdout.open("ab") as out, stderr.open("ab") as err:
        return subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    """Signals the command and the children in its group."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def kill_marked(name: str, value: str) -> None:
    """Kills every process of this user that was started with ``name=value`` in its environment.

    A signal to the group would miss some: PySpark's daemon and workers have another group, and a script can
    start a daemon in another session. All of them inherit the environment. Linux only; elsewhere PySpark's
    workers end when their JVM has ended.
    """
    mark = f"{name}={value}".encode()
    deadline = time.monotonic() + 5
    while True:
        pids = _marked(mark)
        if not pids or time.monotonic() > deadline:
            return
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.02)  # the kernel needs a moment to end them


def _marked(mark: bytes) -> list[int]:
    """Ids of the other processes that have ``mark`` in their environment."""
    if not PROC.is_dir():
        return []
    pids = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # it has ended, or belongs to another user
            continue
        if mark in environment.split(b"\0"):
            pids.append(int(entry.name))
    return pids
