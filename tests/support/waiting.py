"""Waiting for a condition, with a long limit: no test depends on how fast something is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def eventually(
    done: Callable[[], bool], seconds: float = 300, describe: Callable[[], object] = lambda: ""
) -> None:
    """Return once ``done()`` is true; fail after ``seconds`` with what ``describe()`` returns."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s: {describe()}"
        time.sleep(0.02)


def answer_when(
    ask: Callable[[], Answer], good: Callable[[Answer], bool], seconds: float, what: str
) -> Answer:
    """Ask a service every second until its answer is good, and return it; fail after ``seconds``.

    A connection that is refused, cut off or too slow is one to try again.
    """
    deadline, last = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        try:
            answer = ask()
            if good(answer):
                return answer
            last = str(answer)
        except OSError as error:
            last = repr(error)
        time.sleep(1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s; the last answer: {last}")
