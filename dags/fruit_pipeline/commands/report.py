"""Make the report of a finished run: one HTML file that works offline.

    python -m fruit_pipeline report --run s3://bucket/runs/r1
    python -m fruit_pipeline report --run demo-output/demo-20261121-101500 --output /tmp/report.html

Without --output it goes into the run, as report.html. The run must have its features and its PCA;
images are shown as far as the sample still has them, or the source when the sample is not packed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fruit_pipeline.commands.options import add_options
from fruit_pipeline.report.build import Report, make
from image_features.arguments import Parser
from image_features.contract import RunLayout
from image_features.errors import JobError


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--run")
    add_options(
        parser, "--output", type=Path, required=False, metavar="FILE", help="default: report.html in the run"
    )


def run(args: argparse.Namespace) -> Report:
    def save(body: bytes) -> str:
        try:
            args.output.write_bytes(body)
        except OSError as error:
            raise JobError(f"cannot write {args.output}: {error.strerror}") from error
        return str(args.output)

    return make(RunLayout(args.run.rstrip("/")), save=save if args.output else None)
