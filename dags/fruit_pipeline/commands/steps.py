"""Print the two EMR steps of a run.

    python -m fruit_pipeline steps --run s3://bucket/runs/r1 --model s3://bucket/models/<digest> \
        --components 50

prints them as `spark-submit` commands, and with --json as `aws emr add-steps` takes them.
"""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from fruit_pipeline.cluster.steps import extraction_step, reduction_step
from fruit_pipeline.commands.options import add_components, add_options
from image_features.arguments import Parser
from image_features.contract import RunLayout
from image_features.storage import normalise_uri


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--run")
    parser.add_argument("--model", required=True, metavar="URI", help="result of the command `backbone`")
    add_components(parser)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    layout = RunLayout(normalise_uri(args.run))
    return [
        extraction_step(layout, args.model),
        reduction_step(layout, args.model, args.components, args.variance),
    ]


def show(result: list[dict[str, Any]]) -> None:
    for step in result:
        print(shlex.join(step["HadoopJarStep"]["Args"]))
