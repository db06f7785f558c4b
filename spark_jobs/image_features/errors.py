"""The exceptions that stand for expected failures.

* JobError             something a user can mend
  x Damaged            an object is not what the stage that writes it put there
  x NotFound           an object, a folder or a bucket does not exist
  x InvalidKey         S3 has a key that is no path
  x StorageError       a read, a write or another call failed for now; trying again may pass
    - Interrupted      the response of S3 broke off
* Failed               the work began and did not complete
* ShortOfMemory        a MemoryError: this process lacks memory for an image that may be fine

The message of each is one line: what was wrong, with which file or value, and what to do. Handlers decide by
the class and by the attributes, never by the message.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Stage(enum.StrEnum):
    """What writes an output that later stages read; named as its prefix is."""

    SAMPLE = "sample"
    MODEL = "model"
    FEATURES = "features"
    PCA = "pca"


class JobError(Exception):
    """Something a user can mend: bad input, a missing object, settings that cannot work.

    Commands print the message as one line and exit with 2, or with 1 when trying again may pass.
    """

    retryable: ClassVar[bool] = False
    """Whether trying again, with nothing changed, may pass."""

    def __init__(self, message: str, *, stage: Stage | None = None) -> None:
        """``stage``: the one whose output is at fault, so that only running it again can mend it."""
        super().__init__(message)
        self.stage = stage


class Damaged(JobError):
    """An object is not what the stage that writes it put there; that stage can write it again."""


class NotFound(JobError):
    """The object, folder or bucket does not exist."""


class InvalidKey(JobError):
    """S3 has an object whose key is no path, such as ``a//b``: it can be neither listed nor read."""


class StorageError(JobError):
    """A read, a write or another call failed for now, after the client's own retries."""

    retryable = True

    def __init__(self, message: str, *, stage: Stage | None = None, code: str | None = None) -> None:
        """``code``: S3's own, such as ``SlowDown``; None where S3 gave no answer."""
        super().__init__(message, stage=stage)
        self.code = code


class Interrupted(StorageError):
    """The response of S3 broke off."""


class Failed(Exception):
    """The work began and did not complete."""


class ShortOfMemory(MemoryError):
    """This process lacks memory for an image that may be fine, so the image is not rejected."""

    position: int | None = None  # of the image in the list that was passed


@contextmanager
def reading(stage: Stage | None) -> Iterator[None]:
    """Read the output of ``stage``: name it in an error that says that this output is damaged or missing."""
    try:
        yield
    except (Damaged, NotFound) as error:
        error.stage = error.stage or stage
        raise


def read_again(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Call ``read`` again when it raises Damaged once: the object may have been damaged in transit only."""

    @functools.wraps(read)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return read(*args, **kwargs)
        except Damaged:
            return read(*args, **kwargs)

    return wrapped


def first_line(error: BaseException) -> str:
    """The first line of an error's text, cut to 500 characters; the class's name when it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:500]
