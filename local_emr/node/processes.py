"""Starts commands in process groups of their own, and ends them with everything they started."""

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
    """Signals the command and the children that share its group."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def kill_marked(name: str, value: str) -> None:
    """Kills every process of this user that was started with ``name=value`` in its environment.

    A group is not enough: PySpark's daemon moves itself and its workers to a group of their own, and a
    script can start a daemon in another session. The environment follows them all. Linux only; elsewhere
    the workers end by themselves when their JVM is gone.
    """
    mark = f"{name}={value}".encode()
    deadline = time.monotonic() + 5
    while True:
        found = _marked(mark)
        if not found or time.monotonic() > deadline:
            return
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        time.sleep(0.02)  # the kernel needs a moment to take them down


def _marked(mark: bytes) -> list[int]:
    if not PROC.is_dir():
        return []
    found = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:  # gone meanwhile, or another user's
            continue
        if mark in environment.split(b"\0"):
            found.append(int(entry.name))
    return found
