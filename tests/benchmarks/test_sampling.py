"""CPU and memory of a process tree."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import sampling
from benchmarks.sampling import role_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")

# The parent ends its wait without reaping: what rusage of the parent would miss.
FORKING = """
import os, time
pid = os.fork()
if pid == 0:
    held = bytearray(b"x" * 80_000_000)
    end = time.process_time() + 1.2
    while time.process_time() < end:
        pass
    time.sleep(0.8)
    os._exit(0)
time.sleep(0.1)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
"""


def test_a_forked_childs_cpu_and_memory_count(tmp_path: Path) -> None:
    use = sampling.run([sys.executable, "-c", FORKING], tmp_path / "log")
    assert use.exit_code == 0
    assert use.cpu_seconds is not None
    assert use.cpu_seconds >= 1.1
    child = max(use.processes, key=lambda p: p.cpu_seconds)
    assert child.parent != 0
    assert child.cpu_seconds >= 1.1
    assert child.peak_bytes > 70_000_000
    assert use.peak_bytes is not None
    assert use.peak_bytes >= child.peak_bytes


def test_an_orphan_stays_counted(tmp_path: Path) -> None:
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(0.6)\n    os._exit(0)\ntime.sleep(0.4)"
    use = sampling.run([sys.executable, "-c", code], tmp_path / "log")
    assert len(use.processes) == 2


def test_the_exit_code_is_kept(tmp_path: Path) -> None:
    use = sampling.run([sys.executable, "-c", "print('said'); raise SystemExit(3)"], tmp_path / "log")
    assert use.exit_code == 3
    assert (tmp_path / "log").read_text() == "said\n"


def test_a_name_with_brackets_is_parsed() -> None:
    fields = " ".join(str(n) for n in range(4, 53))
    stat = sampling._parse_stat(f"12 (a ) b (c)) S 7 {fields.split(' ', 1)[1]}")
    assert (stat.parent, stat.cpu_ticks, stat.start_ticks) == (7, 14 + 15, 22)


@pytest.mark.parametrize(
    ("command", "parent", "role"),
    [
        ("/usr/bin/java -cp x", "bash", "jvm"),
        ("/v/bin/python3.11 -m pyspark.daemon", "/usr/bin/java -cp x", "daemon"),
        ("/v/bin/python3.11 -m pyspark.daemon", "/v/bin/python3.11 -m pyspark.daemon", "worker"),
        ("/v/bin/python extract_features.py", "/usr/bin/java -cp x", "python"),
        ("bash spark-submit", "python", "other"),
    ],
)
def test_roles(command: str, parent: str, role: str) -> None:
    assert role_of(command, parent) == role
