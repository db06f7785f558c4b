"""Processes to be hit, found by what they ask of AWS: the one that makes a call, or one above it.

So a fault hits at a point of the run, never at a time.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psutil

from support.airflow_components import Components
from support.faulty_aws import Call, Exchange, Fault

Pick = Callable[[psutil.Process], psutil.Process]


def caller(call: Call) -> psutil.Process:
    """The process whose connection a call came by."""
    for connection in psutil.net_connections(kind="tcp"):
        if not connection.raddr or connection.pid is None:  # nobody's: its process has just ended
            continue
        # Both ends: another process may have the same port, for a connection to somewhere else.
        if (connection.laddr.port, connection.raddr.port) == call.ports:
            return psutil.Process(connection.pid)
    raise LookupError(f"no process has the connection {call.ports}")


def itself(process: psutil.Process) -> psutil.Process:
    return process


def lineage(process: psutil.Process) -> Iterator[psutil.Process]:
    """It and those above it, up to this process, whose command line names every test."""
    for candidate in [process, *process.parents()]:
        if candidate.pid == os.getpid():
            return
        yield candidate


def above(name: str) -> Pick:
    """The nearest process above it, or itself, whose command line has ``name`` in it."""

    def pick(process: psutil.Process) -> psutil.Process:
        for candidate in lineage(process):
            if name in " ".join(candidate.cmdline()):
                return candidate
        raise LookupError(f"{process} is below no {name}")

    return pick


def driver(process: psutil.Process) -> psutil.Process:
    """The Python process of the Spark driver that a worker works for: the JVM runs it."""
    for child in above("SparkSubmit")(process).children():
        if "--output" in child.cmdline():
            return child
    raise LookupError(f"no Python driver for {process}")


def _below(name: str, call: Call) -> bool:
    try:
        above(name)(caller(call))
    except (LookupError, psutil.NoSuchProcess):
        return False
    return True


class Victim(Fault):
    """Catches the calls of processes below one that is named ``below``; of all, without it."""

    def __init__(self, *names: str, below: str = "", **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})
        self.below = below

    def catches(self, call: Call, passed: set[str]) -> bool:
        if self.below:
            # Whose a call is takes long to see: first what it is.
            if self.names and call.name not in self.names:
                return False
            if self.path and not re.search(self.path, urllib.parse.unquote(call.path)):
                return False
            if not _below(self.below, call):
                return False
        return super().catches(call, passed)


class Hit(Victim):
    """Signals the caller, or a process above it, at its call.

    With ``done`` AWS has done the call by then; else it never learns of it. The caller gets no answer.
    """

    def __init__(
        self,
        *names: str,
        pick: Pick = itself,
        number: int = signal.SIGKILL,
        group: bool = False,
        done: bool = False,
        **which: Any,
    ) -> None:
        """``group``: the process group of the one picked."""
        super().__init__(*names, **which)
        self.pick, self.number, self.group, self.done = pick, number, group, done

    def serve(self, call: Call, exchange: Exchange) -> None:
        victim = self.pick(caller(call))
        if self.done:
            exchange.complete(call)
        with suppress(ProcessLookupError):
            if self.group:
                os.killpg(os.getpgid(victim.pid), self.number)
            else:
                os.kill(victim.pid, self.number)
        exchange.drop()


class Freeze(Victim):
    """Stops the caller, or a process above it, for a while (SIGSTOP, SIGCONT); the call is done meanwhile."""

    def __init__(self, *names: str, seconds: float, pick: Pick = itself, **which: Any) -> None:
        super().__init__(*names, **which)
        self.seconds, self.pick = seconds, pick

    def serve(self, call: Call, exchange: Exchange) -> None:
        victim = self.pick(caller(call))
        victim.suspend()
        threading.Thread(target=self._thaw, args=(victim,), daemon=True).start()
        exchange.pass_on(call)

    def _thaw(self, victim: psutil.Process) -> None:
        time.sleep(self.seconds)
        with suppress(psutil.NoSuchProcess):
            victim.resume()


class Starve(Victim):
    """From its call on the caller gets no more memory than it has; the call is passed on."""

    def serve(self, call: Call, exchange: Exchange) -> None:
        # Where all are starved, one that was before dies any moment.
        gone = (LookupError, psutil.NoSuchProcess) if self.times is None else ()
        with suppress(*gone):
            # A limit below what it has takes nothing away, and every page more is refused.
            caller(call).rlimit(resource.RLIMIT_AS, (1, 1))
        exchange.pass_on(call)


class Fall(Victim):
    """Kills a component of Airflow and all it started, and starts it again, as systemd or compose does."""

    def __init__(self, airflow: Components, component: str, *names: str, **which: Any) -> None:
        super().__init__(*names, **which)
        self.airflow, self.component = airflow, component

    def serve(self, call: Call, exchange: Exchange) -> None:
        self.airflow.kill(self.component)
        self.airflow.start(self.component)
        exchange.pass_on(call)
