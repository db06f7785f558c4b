"""CPU seconds and peak memory of a process with all its descendants, sampled by psutil.

The parent's rusage would miss the workers that Spark's daemon forks and never waits for. For a process
that ends between two samples, the use since the last sample is lost: at most one interval.
Where psutil cannot read PSS, memory is RSS.
"""

from __future__ import annotations

import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CPU_INTERVAL = 0.15
MEMORY_INTERVAL = 0.5
"""Seconds between two samples, at least; expensive samples make them longer."""

_SHARE = 0.01
"""Largest share of one core that sampling may take: adding up the pages of a large process takes many
milliseconds, and the measured processes should not pay for it."""


@dataclass
class ProcessUse:
    """The use of one process at its last sample."""

    pid: int
    parent: int
    role: str
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # PSS; RSS where PSS cannot be read


@dataclass
class Use:
    """The use of one command."""

    seconds: float
    started: float  # time.time()
    exit_code: int
    processes: list[ProcessUse] = field(default_factory=list)
    peak_bytes: int | None = None  # of all processes together
    memory: str = "none"  # "PSS", or "RSS", which counts shared pages once for each process

    @property
    def cpu_seconds(self) -> float | None:
        return sum(p.cpu_seconds for p in self.processes) if self.processes else None

    def peak_of(self, role: str) -> int | None:
        """Largest peak of a process with this role, bytes."""
        return max((p.peak_bytes for p in self.processes if p.role == role), default=None)


class Sampler:
    """Follows a process tree until it is stopped. It keeps following a process whose parent has ended."""

    def __init__(self, root: int) -> None:
        self._root = psutil.Process(root)
        self._uses: dict[psutil.Process, ProcessUse] = {}  # psutil tells a reused pid from the first
        self.peak_bytes = 0
        self.memory = "PSS"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def processes(self) -> list[ProcessUse]:
        return list(self._uses.values())

    def _run(self) -> None:
        due = 0.0
        while True:
            memory, cost = time.monotonic() >= due, time.thread_time()
            self.sample(memory=memory)
            cost = time.thread_time() - cost
            if memory:
                due = time.monotonic() + max(MEMORY_INTERVAL, cost / _SHARE)
            if self._stop.wait(CPU_INTERVAL if memory else max(CPU_INTERVAL, cost / _SHARE)):
                return

    def sample(self, *, memory: bool = True) -> None:
        """Read the CPU time, and with ``memory`` the memory, of every process of the tree once."""
        total = 0
        for process in descendants({self._root, *self._uses}):
            with suppress(psutil.Error):
                use = self._uses.setdefault(process, ProcessUse(process.pid, process.ppid(), "other"))
                times = process.cpu_times()
                use.cpu_seconds = times.user + times.system
                # Each time: a process changes its command after the fork, and has none when it ends.
                if command := command_of(process):
                    use.role = role_of(command, command_of(process.parent()))
                if memory:
                    size = self._memory_of(process)
                    use.peak_bytes = max(use.peak_bytes, size)
                    total += size
        self.peak_bytes = max(self.peak_bytes, total)

    def _memory_of(self, process: psutil.Process) -> int:
        try:
            return int(process.memory_full_info().pss)
        except (psutil.AccessDenied, AttributeError):  # another user's process, or not Linux
            self.memory = "RSS"
            return int(process.memory_info().rss)


def descendants(roots: set[psutil.Process]) -> set[psutil.Process]:
    """The living processes among ``roots``, and all processes below them."""
    children: dict[int, list[psutil.Process]] = {}
    living: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
            living.add(process)
    members: set[psutil.Process] = set()
    waiting = list(roots & living)
    while waiting:
        process = waiting.pop()
        if process not in members:
            members.add(process)
            waiting += children.get(process.pid, [])
    return members


def command_of(process: psutil.Process | None) -> str:
    """The command line of a process; empty if it has ended or cannot be read."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline()) if process else ""
    return ""


def role_of(command: str, parent_command: str) -> str:
    """The role of a process in a Spark job: "jvm", "daemon", "worker", "python" or "other"."""
    program = command.split(" ", 1)[0].rpartition("/")[2]
    if program == "java":
        return "jvm"
    if "pyspark.daemon" in command:
        return "worker" if "pyspark.daemon" in parent_command else "daemon"
    return "python" if program.startswith("python") else "other"


def run(command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Use:
    """Run a command with its output in ``log``, and measure its use."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        wall, started = time.time(), time.monotonic()
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        try:
            with Sampler(process.pid) as sampler:
                code = process.wait()
                seconds = time.monotonic() - started
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return Use(seconds, wall, code, sampler.processes, sampler.peak_bytes, sampler.memory)
