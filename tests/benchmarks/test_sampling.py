"""CPU and memory of a process tree."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import sampling
from benchmarks.sampling import role_of

# The parent does not reap its child, so the parent's rusage misses the child's use.
FORKING = """
import os, sys, time
pid = os.fork()
if pid == 0:
    held = bytearray(b"x" * 80_000_000)
    end = time.process_time() + 1.2
    while time.process_time() < end:
        pass
    while not os.path.exists(sys.argv[1]):
        time.sleep(0.02)
    os._exit(0)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
"""

# Both wait for the gate; then the parent ends, and its child continues.
ORPHANING = """
import os, sys, time
child = os.fork() == 0
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
if child:
    time.sleep(0.5)
    os._exit(0)
"""


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., bool]], str]:
    """Path of a file that is created once a sample satisfies the condition of the test."""
    path, sample = tmp_path / "gate", sampling.Sampler.sample

    def opens_when(condition: Callable[[list[sampling.ProcessUse]], bool]) -> str:
        def sample_and_open(sampler: sampling.Sampler, *, memory: bool = True) -> None:
            sample(sampler, memory=memory)
            if condition(sampler.processes):
                path.touch()

        monkeypatch.setattr(sampling.Sampler, "sample", sample_and_open)
        return str(path)

    return opens_when


def test_cpu_and_memory_of_a_forked_child_count(tmp_path: Path, gate: Callable[..., str]) -> None:
    opened = gate(lambda uses: any(use.cpu_seconds >= 1.1 and use.peak_bytes > 70_000_000 for use in uses))
    use = sampling.run([sys.executable, "-c", FORKING, opened], tmp_path / "log")
    assert use.exit_code == 0
    assert use.cpu_seconds is not None
    assert use.cpu_seconds >= 1.1
    child = max(use.processes, key=lambda p: p.cpu_seconds)
    assert child.parent in {process.pid for process in use.processes}
    assert child.peak_bytes > 70_000_000
    assert use.peak_bytes is not None
    assert use.peak_bytes >= child.peak_bytes


def test_a_process_counts_after_its_parent_has_ended(tmp_path: Path, gate: Callable[..., str]) -> None:
    opened = gate(lambda uses: len(uses) == 2)
    use = sampling.run([sys.executable, "-c", ORPHANING, opened], tmp_path / "log")
    assert len(use.processes) == 2


def test_the_exit_code_and_output_of_the_command_are_kept(tmp_path: Path) -> None:
    use = sampling.run([sys.executable, "-c", "print('said'); raise SystemExit(3)"], tmp_path / "log")
    assert use.exit_code == 3
    assert (tmp_path / "log").read_text() == "said\n"


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
