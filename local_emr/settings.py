"""The settings of one server: where it serves, and how it runs steps."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
MASTER = re.compile(rf"local|local\[(\*|\d+)(,\d+)?\]|{LOCAL_CLUSTER.pattern}")


@dataclass(frozen=True)
class Settings:
    """``endpoint`` is the URL of this server; ``s3_endpoint`` that of the S3 for scripts, logs and data.

    ``root`` is the folder of the clusters' files, ``master`` Spark's master, ``python`` the Python of a node.
    """

    endpoint: str
    s3_endpoint: str
    root: Path
    master: str
    python: str
    java_home: Path
    log_seconds: float = 5.0
    bootstrap_seconds: float = 3600.0  # EMR's own limit for one bootstrap action
    java_options: str = ""

    @property
    def other_s3(self) -> bool:
        return self.s3_endpoint != self.endpoint

    @property
    def worker_memory_mb(self) -> int | None:
        """Memory of one executor under ``local-cluster[n,cores,MB]``, None under ``local[n]``."""
        match = LOCAL_CLUSTER.fullmatch(self.master)
        return int(match[3]) if match else None


def machine_memory_mb() -> int:
    """Physical memory of this machine in MiB."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
