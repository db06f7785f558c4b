"""What every ``python -m fruit_pipeline.<module>`` shares: help, exit codes, ``--json``, logs on stderr.

The exit codes are those of the EMR steps, in whose package they stand: it is all that a node carries.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: what was asked for was begun, and did not come to its end |
| 2 | bad input, told in one line before any work, or of what an earlier stage left |
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from image_features import cli
from image_features.cli import parser
from image_features.errors import Failed

__all__ = ["Failed", "parser", "run"]


def run(work: Callable[[], Any], args: argparse.Namespace, show: Callable[[Any], None] | None = None) -> int:
    """Run ``work`` and print its result as ``step.main`` does, with the log on stderr; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    return cli.main(work, args, show)
