"""What one server was started with; read by every other module, changed by none."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

LOCAL_CLUSTER = re.compile(r"local-cluster\[\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*\]")
MASTER = re.compile(rf"local|local\[(\*|\d+)(,\d+)?\]|{LOCAL_CLUSTER.pattern}")


@dataclass(frozen=True)
class Settings:
    """``endpoint`` is this server; ``s3_endpoint`` the S3 that steps, bootstrap downloads and logs use."""

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
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
