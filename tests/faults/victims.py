"""Processes to be hit, found by what they ask of AWS: the one that makes a call, or one above it.

So a fault hits at a point of the run, never at a time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
from faulty_aws import Call, Exchange, Fault

Pick = Callable[[psutil.Process], psutil.Process]


def caller(call: Call) -> psutil.Process:
    """The process whose connection a call came by."""
    for connection in psutil.net_connections(kind="tcp"):
        if (
            connection.laddr
            and connection.laddr.port == call.port
            and connection.pid not in (None, os.getpid())
        ):
            return psutil.Process(connection.pid)
    raise LookupError(f"no process has port {call.port}")


def itself(process: psutil.Process) -> psutil.Process:
    return process


def above(name: str) -> Pick:
    """The nearest process above it, or itself, whose command line has ``name`` in it."""

    def pick(process: psutil.Process) -> psutil.Process:
        for candidate in [process, *process.parents()]:
            if name in " ".join(candidate.cmdline()):
                return candidate
        raise LookupError(f"{process} is below no {name}")

    return pick


class Hit(Fault):
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
        super().__init__(names, **{"times": 1, **which})
        self.pick, self.number, self.group, self.done = pick, number, group, done

    def serve(self, call: Call, exchange: Exchange) -> None:
        victim = self.pick(caller(call))
        if self.done:
            exchange.done(call)
        with suppress(ProcessLookupError):
            if self.group:
                os.killpg(os.getpgid(victim.pid), self.number)
            else:
                os.kill(victim.pid, self.number)
        exchange.drop()
