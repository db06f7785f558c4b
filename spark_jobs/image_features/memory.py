"""A worker that is short of memory: no verdict on an image, a task that Spark tries again, then one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from image_features.errors import Failed

_ADVICE = (
    "lower max_pixels, which bounds what an image takes, or take a cluster shape with more memory for each "
    "core; what stands is kept"
)

# Spark's and YARN's words for a worker that was killed, or ended by itself.
_KILLED = re.compile(
    r"Python worker exited unexpectedly|OutOfMemoryError|exit(?:ed with)? (?:code|status):? (?:137|143)"
    r"|killed by YARN for exceeding (?:physical |virtual )?memory limits",
    re.IGNORECASE,
)
_SAID = re.compile(r"ShortOfMemory: (.+)")
_TASK = re.compile(r"Task (\d+) in stage [\d.]+ failed")


@contextmanager
def told(tasks: Sequence[str]) -> Iterator[None]:
    """Turn Spark's error into one line, where tasks failed for want of memory as often as Spark tries.

    ``tasks``: what each task works on, as a user knows it. Raises Failed; any other error passes.
    """
    try:
        yield
    except Exception as error:  # py4j's, which only a JVM brings along
        text = str(error)
        found = _TASK.search(text)
        at = int(found[1]) if found else len(tasks)
        where = f" at {tasks[at]}" if at < len(tasks) else ""
        if said := _SAID.search(text):
            raise Failed(f"out of memory at {said[1].strip()}; {_ADVICE}") from error
        if "MemoryError" in text:
            raise Failed(f"out of memory{where}; {_ADVICE}") from error
        if killed := _KILLED.search(text):
            raise Failed(
                f"a worker was lost{where} ({killed[0]}), out of memory most likely; {_ADVICE}"
            ) from error
        raise
