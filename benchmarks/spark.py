"""Real ``spark-submit`` runs on this machine's cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks import machine, sampling
from image_features.errors import JobError


def submit(
    script: Path,
    arguments: list[str],
    cores: int,
    log: Path,
    scratch: Path,
    options: list[str],
    python_path: Path | None = None,
) -> sampling.Use:
    """Run a script on ``local[cores]``. Raises JobError, which names the log, if it fails.

    ``python_path`` is a folder of further modules for driver and workers.
    """
    binaries = Path(sys.executable).parent
    command = [
        str(binaries / "spark-submit"),
        *("--master", f"local[{cores}]"),
        *("--conf", "spark.ui.enabled=false"),
        *options,
        str(script),
        *arguments,
    ]
    env = environment(scratch)
    if python_path:
        env["PYTHONPATH"] = str(python_path)
    use = sampling.run(command, log, env, scratch)
    if use.exit_code:
        errors = [line for line in log.read_text(errors="replace").splitlines() if "Error" in line]
        reason = errors[-1].strip()[:300] if errors else f"exit code {use.exit_code}"
        raise JobError(f"{script.name} failed; see {log}: {reason}")
    return use


def environment(scratch: Path) -> dict[str, str]:
    """The caller's environment, with this Python for driver and workers, and ``scratch`` for their files."""
    scratch.mkdir(parents=True, exist_ok=True)
    excluded = ("SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_SUBMIT_ARGS")
    env = {name: value for name, value in os.environ.items() if name not in excluded}
    env |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(scratch),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    if home := machine.java_home():
        env["JAVA_HOME"] = home
    return env
