"""The Spark session of a step, and Spark's failures as errors of one line."""

from __future__ import annotations

import contextlib
import errno
import pickle
import re
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from image_features.errors import Failed, ShortOfMemory

_DISK_FULL = (
    "the node's disk is full; take a shape with more ebs_gb, or free space on it; finished shards are kept"
)

_MORE_MEMORY = (
    "lower max_pixels, which bounds what an image takes, or take a cluster shape with more memory for each "
    "core; finished shards are kept"
)


@contextlib.contextmanager
def spark_session(name: str) -> Iterator[Any]:
    """A Spark session whose workers use one BLAS thread each, because each core has its own worker.

    Raises Failed, in one line, for what Spark gives up on; its traces go to stderr.
    """
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        builder = builder.config(f"spark.executorEnv.{variable}", "1")
    spark: Any = None
    try:
        spark = builder.getOrCreate()
        yield spark
    except Py4JJavaError as error:
        traceback.print_exc()
        advice = f"; {_DISK_FULL}" if _FailureReport.of(error).disk_full else ""
        reason = _in_one_line(str(error.java_exception.getMessage()))
        raise Failed(f"Spark gave up: {reason}{advice}") from error
    except (Py4JError, ConnectionError, EOFError) as error:
        traceback.print_exc()
        raise Failed(f"Spark's JVM has ended, killed or out of memory ({type(error).__name__})") from error
    except (OSError, pickle.PicklingError) as error:  # PySpark writes a broadcast to the disk as a pickle
        if not _is_disk_full(error):
            raise
        traceback.print_exc()
        raise Failed(f"{error}; {_DISK_FULL}") from error
    finally:
        # Without a JVM there is nothing to stop, and the error of stopping would hide the cause.
        with contextlib.suppress(Py4JError, ConnectionError, EOFError):
            if spark is not None:
                spark.stop()


@contextlib.contextmanager
def memory_failures_explained(tasks: Sequence[str]) -> Iterator[None]:
    """Raise Failed when Spark gave up on a task for lack of memory; any other error passes unchanged.

    ``tasks``: what each task works on, in the user's terms.
    """
    try:
        yield
    except Exception as error:  # py4j's, whose package only comes with Spark
        report = _FailureReport.of(error)
        where = f" at {tasks[report.task]}" if report.task is not None and report.task < len(tasks) else ""
        if report.short_of_memory:
            raise Failed(f"out of memory at {report.short_of_memory}; {_MORE_MEMORY}") from error
        if report.memory_error:
            raise Failed(f"out of memory{where}; {_MORE_MEMORY}") from error
        if report.killed:
            raise Failed(
                f"a worker was lost{where} ({report.killed}), out of memory most likely; {_MORE_MEMORY}"
            ) from error
        raise


@dataclass(frozen=True)
class _FailureReport:
    """What Spark reports of a job that failed.

    An exception of a worker, and the end of a worker or an executor, reach the driver only as text: traces of
    Python and Java, and messages of YARN. So the text is parsed here, once.
    """

    task: int | None  # position of the task that failed
    short_of_memory: str | None  # the message of a worker's ShortOfMemory
    memory_error: bool  # a worker raised MemoryError, or Arrow's
    killed: str | None  # how Spark or YARN describes a worker that was killed or crashed
    disk_full: bool

    @classmethod
    def of(cls, error: Exception) -> _FailureReport:
        text = str(error)
        task = re.search(r"Task (\d+) in stage [\d.]+ failed", text)
        short_of_memory = re.search(rf"{ShortOfMemory.__name__}: (.+)", text)
        killed = re.search(
            r"Python worker exited unexpectedly|OutOfMemoryError"
            r"|exit(?:ed with)? (?:code|status):? (?:137|143)"
            r"|killed by YARN for exceeding (?:physical |virtual )?memory limits",
            text,
            re.IGNORECASE,
        )
        return cls(
            task=int(task[1]) if task else None,
            short_of_memory=short_of_memory[1].strip() if short_of_memory else None,
            memory_error="MemoryError" in text,
            killed=killed[0] if killed else None,
            disk_full="No space left on device" in text,
        )


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or the one during whose handling it was raised, is ENOSPC."""
    cause = error.__cause__ or error.__context__
    return getattr(error, "errno", None) == errno.ENOSPC or (cause is not None and _is_disk_full(cause))


def _in_one_line(text: str) -> str:
    """Spark's reason without its traces: its first line, and the last one of a Python traceback."""
    # The lines of a Java trace begin with a tab, those of a Python trace with spaces.
    inside = ("\t", " ", "Caused by:", "Driver stacktrace:")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(inside)]
    first = lines[0].removesuffix(" Traceback (most recent call last):") if lines else "no reason"
    return first if len(lines) < 2 else f"{first} {lines[-1]}"
