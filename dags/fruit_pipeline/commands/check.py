"""Check a finished run's output against its manifest and its model.

    python -m fruit_pipeline check --run s3://bucket/runs/r1
    python -m fruit_pipeline check --run /tmp/walk/run

Every image of the manifest must be one row of features or of rejects, and every embedding must be what
the run's model makes of its features. The check reads the sample too, so it needs the run itself: the
copy below demo-output has no sample. A check that fails is bad input (exit code 2): the line on stderr
names the first ten rows or objects.
"""

from __future__ import annotations

import argparse

from fruit_pipeline.checks.output import CheckReport, check_run
from fruit_pipeline.commands.options import add_options
from image_features.arguments import Parser
from image_features.contract import RunLayout


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--run")


def run(args: argparse.Namespace) -> CheckReport:
    return check_run(RunLayout(args.run.rstrip("/")))
