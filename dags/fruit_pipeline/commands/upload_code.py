"""Upload the job code of a run: what its steps and its bootstrap action run.

    python -m fruit_pipeline upload-code --output s3://bucket/runs/r1/code

Each run keeps its own copy, so it can be repeated with the code that made it. The result is the names
of the objects.
"""

from __future__ import annotations

import argparse

from fruit_pipeline import settings
from fruit_pipeline.cluster.job_code import upload
from fruit_pipeline.commands.options import add_options
from image_features.arguments import Parser
from image_features.storage import Storage


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--output", help="prefix that the code goes to")


def run(args: argparse.Namespace) -> list[str]:
    return upload(settings.load().home, Storage(args.output, create=True))


def show(result: list[str]) -> None:
    print("uploaded", *result)
