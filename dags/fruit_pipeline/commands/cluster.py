"""Print the request for a run's EMR cluster, made from a shape.

    python -m fruit_pipeline cluster --run s3://bucket/runs/r1 --wheelhouse s3://bucket/wheelhouse/<digest>

The request is JSON in any case, for `aws emr run-job-flow --cli-input-json`.
"""

from __future__ import annotations

import argparse
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.cluster.job_flow import build_request
from fruit_pipeline.cluster.shapes import load_shape
from fruit_pipeline.commands.options import add_options
from image_features.arguments import Parser
from image_features.cli import print_json
from image_features.storage import join_uri, normalise_uri

show = print_json


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--run", help="s3://<bucket>/runs/<run key>")
    parser.add_argument(
        "--wheelhouse", required=True, metavar="URI", help="result of the command `wheelhouse`"
    )
    add_options(parser, "--shape")


def run(args: argparse.Namespace) -> dict[str, Any]:
    deployment = settings.load()
    run_uri = normalise_uri(args.run)
    return build_request(
        deployment,
        load_shape(deployment.home, args.shape),
        run_uri.rpartition("/")[2],
        join_uri(run_uri, "logs"),
        join_uri(run_uri, "code", "install.sh"),
        args.wheelhouse,
    )
