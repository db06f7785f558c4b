"""Python processes of a test, and a search among all processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def python(code: str, **environment: str) -> str:
    """Standard output of ``code`` in a process of its own; fail when it fails."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def processes_with(variable: str) -> list[str]:
    """Command lines of the processes whose environment has ``variable`` (``NAME=value``)."""
    lines = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (path / "environ").read_bytes().split(b"\0"):
                lines.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # the process has ended
            continue
    return lines
