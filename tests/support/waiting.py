"""Waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(
    done: Callable[[], bool], seconds: float = 300, describe: Callable[[], object] = lambda: ""
) -> None:
    """Return once ``done()`` is true; fail after ``seconds`` with what ``describe()`` returns."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s: {describe()}"
        time.sleep(0.02)
