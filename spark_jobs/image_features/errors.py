"""The exceptions that stand for expected failures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Found = TypeVar("Found")


class JobError(Exception):
    """Something a user can mend: bad input, a missing object, settings that cannot work.

    The message says what was wrong, with which file or value, and what to do. Commands print
    it as one line and exit with 2; it never shows as a traceback.
    """


class Damaged(JobError):
    """An object is not what a stage wrote; that stage can make it again."""


def read_again(read: Callable[Arguments, Found]) -> Callable[Arguments, Found]:
    """Call ``read`` once more when it raises Damaged: what was spoilt on its way is whole where it lies."""

    @functools.wraps(read)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Found:
        try:
            return read(*args, **kwargs)
        except Damaged:
            return read(*args, **kwargs)

    return wrapped


class Failed(Exception):
    """The work was begun and failed; the message is one line for the user."""
