"""The Spark session of a step."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Iterator
from typing import Any

from image_features.errors import Failed

_NO_ROOM = "No space left on device"

_DISK_FULL = (
    "the node's disk is full; take a shape with more ebs_gb, or free what else is kept there; what stands "
    "is kept"
)


@contextlib.contextmanager
def spark_session(name: str) -> Iterator[Any]:
    """A Spark session whose workers use one BLAS thread each: there is one worker a core.

    What Spark gives up over is raised as Failed, in one line; its traces go to stderr.
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
        # What Java caused stands in the whole of it, what Spark makes of that in its message.
        advice = f"; {_DISK_FULL}" if _NO_ROOM in str(error) else ""
        reason = _in_one_line(str(error.java_exception.getMessage()))
        raise Failed(f"Spark gave up: {reason}{advice}") from error
    except (Py4JError, ConnectionError, EOFError) as error:
        traceback.print_exc()
        raise Failed(f"Spark's JVM has ended, killed or out of memory ({type(error).__name__})") from error
    except (OSError, pickle.PicklingError) as error:  # as which PySpark tells that a broadcast found no room
        if _NO_ROOM not in str(error):
            raise
        traceback.print_exc()
        raise Failed(f"{error}; {_DISK_FULL}") from error
    finally:
        # Without a JVM there is nothing to stop, and trying would hide why.
        with contextlib.suppress(Py4JError, ConnectionError, EOFError):
            if spark is not None:
                spark.stop()


def _in_one_line(text: str) -> str:
    """Spark's reason without its traces: its first line, and the last one of a Python traceback."""
    # A trace of Java begins its lines with a tab, that of Python with blanks.
    inside = ("\t", " ", "Caused by:", "Driver stacktrace:")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(inside)]
    first = lines[0].removesuffix(" Traceback (most recent call last):") if lines else "no reason"
    return first if len(lines) < 2 else f"{first} {lines[-1]}"


def versions_of(spark: Any) -> dict[str, str]:
    """Versions of a session's Spark and Java."""
    java = spark.sparkContext._jvm.java.lang.System.getProperty("java.version")
    return {"spark": spark.version, "java": java}
