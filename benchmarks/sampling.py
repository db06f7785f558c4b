"""CPU seconds and peak memory of a process with all its descendants, sampled from ``/proc``.

The parent's rusage would miss the workers that Spark's daemon forks and never waits for. A process
that ends between two samples loses what it used since the last one: at most the interval.
Linux only; elsewhere a run is timed and the other figures are None.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

CPU_INTERVAL = 0.15
MEMORY_INTERVAL = 0.5
"""Seconds, at least; what a look costs makes them longer."""

_SHARE = 0.01
"""Of one core, that looking may take at most: summing the pages of a large process takes many
milliseconds, and what is measured should not pay for it."""

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class ProcessUse:
    """What one process was last seen to have used."""

    pid: int
    parent: int
    role: str
    cpu_seconds: float = 0.0
    peak_bytes: int = 0  # PSS; RSS where PSS may not be read


@dataclass
class Use:
    """What a command used."""

    seconds: float
    started: float  # time.time()
    exit_code: int
    processes: list[ProcessUse] = field(default_factory=list)
    peak_bytes: int | None = None  # of all processes together
    memory: str = "none"  # "PSS", or "RSS" where pages shared by processes count more than once

    @property
    def cpu_seconds(self) -> float | None:
        return sum(p.cpu_seconds for p in self.processes) if self.processes else None

    def peak_of(self, role: str) -> int | None:
        """Largest peak of a process of this role, bytes."""
        return max((p.peak_bytes for p in self.processes if p.role == role), default=None)


@dataclass(frozen=True)
class _Stat:
    parent: int
    start_ticks: int
    cpu_ticks: int


class Sampler:
    """Follows a process tree until it is stopped; processes once seen are kept when their parent ends."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[tuple[int, int], ProcessUse] = {}  # by pid and start: a pid may be used again
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
        return list(self._seen.values())

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
        """Look once at every process of the tree."""
        stats = _all_stats()
        known = {pid for pid, start in self._seen if pid in stats and stats[pid].start_ticks == start}
        members = _descendants(stats, {self._root, *known})
        total = 0
        for pid in members:
            stat = stats[pid]
            use = self._seen.setdefault((pid, stat.start_ticks), ProcessUse(pid, stat.parent, "other"))
            use.cpu_seconds = stat.cpu_ticks / _TICKS
            # Looked up each time: a process changes its command after the fork, and has none when it ends.
            if command := _command(pid):
                use.role = role_of(command, _command(stat.parent))
            if memory:
                held = self._memory_of(pid)
                use.peak_bytes = max(use.peak_bytes, held)
                total += held
        self.peak_bytes = max(self.peak_bytes, total)

    def _memory_of(self, pid: int) -> int:
        with suppress(FileNotFoundError, ProcessLookupError):
            try:
                return _kib(_PROC / str(pid) / "smaps_rollup", "Pss:") * 1024
            except PermissionError:
                self.memory = "RSS"
                return _kib(_PROC / str(pid) / "status", "VmRSS:") * 1024
        return 0


def role_of(command: str, parent_command: str) -> str:
    """What a process of a Spark job is: "jvm", "daemon", "worker", "python" or "other"."""
    program = command.split(" ", 1)[0].rpartition("/")[2]
    if program == "java":
        return "jvm"
    if "pyspark.daemon" in command:
        return "worker" if "pyspark.daemon" in parent_command else "daemon"
    return "python" if program.startswith("python") else "other"


def run(command: list[str], log: Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> Use:
    """Run a command, its output to ``log``, and say what it used."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as sink:
        wall, started = time.time(), time.monotonic()
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=env, cwd=cwd)
        try:
            if not (_PROC / "self" / "stat").exists():
                code = process.wait()
                return Use(time.monotonic() - started, wall, code)
            with Sampler(process.pid) as sampler:
                code = process.wait()
                seconds = time.monotonic() - started
        except BaseException:
            process.terminate()
            process.wait()
            raise
    return Use(seconds, wall, code, sampler.processes, sampler.peak_bytes, sampler.memory)


def _all_stats() -> dict[int, _Stat]:
    found = {}
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal():
            with suppress(OSError, ValueError, IndexError):
                found[int(entry.name)] = _parse_stat((_PROC / entry.name / "stat").read_text())
    return found


def _parse_stat(text: str) -> _Stat:
    # The command's name stands in brackets and may hold anything; fields are counted after it.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), int(fields[19]), int(fields[11]) + int(fields[12]))


def _descendants(stats: dict[int, _Stat], roots: set[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    members: set[int] = set()
    waiting = [pid for pid in roots if pid in stats]
    while waiting:
        pid = waiting.pop()
        if pid not in members:
            members.add(pid)
            waiting.extend(children.get(pid, []))
    return members


def _command(pid: int) -> str:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
