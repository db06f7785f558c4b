"""What the two entry points share: the Spark session, and how a step ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from image_features.errors import JobError

EXIT_REFUSED = 2
"""Exit code for bad input, as argparse uses it; 1 is an error nobody foresaw."""


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
