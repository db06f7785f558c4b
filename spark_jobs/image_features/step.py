"""What the two entry points share: the Spark session, and how a step ends."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from image_features.errors import JobError

EXIT_REFUSED = 2
"""Exit code for bad input, as argparse uses it; 1 is an error nobody foresaw."""


def at_least_one(text: str) -> int:
    """Argument type of argparse: a whole number from 1 up."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def share(text: str) -> float:
    """Argument type of argparse: a number between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {value}")
    return value


def main(run: Callable[[], None]) -> int:
    """Run a step; an expected failure is one line on stderr and exit code 2, not a traceback."""
    try:
        run()
    except JobError as error:
        print(f"JobError: {error}", file=sys.stderr, flush=True)
        return EXIT_REFUSED
    return 0


@contextlib.contextmanager
def spark_session(name: str) -> Iterator[Any]:
    """A Spark session whose workers use one BLAS thread each: there is one worker a core."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(name)
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        builder = builder.config(f"spark.executorEnv.{variable}", "1")
    spark = builder.getOrCreate()
    try:
        yield spark
    finally:
        spark.stop()
