"""Make a cluster shape of an existing cluster, as the EMR console clones one.

    python -m fruit_pipeline clone-shape --cluster j-2AXXXXXXGAPLF --name mine
    python -m fruit_pipeline clone-shape --cluster j-2AXXXXXXGAPLF --name mine --write

Prints the shape, always as JSON, and lists on stderr what it leaves out; with --write it becomes
`emr_configs/mine.json`. The cluster may have ended: EMR describes it for two more months.
"""

from __future__ import annotations

import argparse
import json
import logging
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import shapes
from fruit_pipeline.cluster.clone_shape import clone
from image_features.arguments import Parser
from image_features.cli import print_json

log = logging.getLogger(__name__)

show = print_json


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--cluster", required=True, metavar="ID", help="j-..., running or ended")
    parser.add_argument("--name", required=True, help="of the shape")
    parser.add_argument("--write", action="store_true", help="write it into emr_configs")


def run(args: argparse.Namespace) -> dict[str, Any]:
    deployment = settings.load()
    aws = Aws.from_environment(deployment.region)
    with explained(f"cluster {args.cluster} in {deployment.region}", aws):
        cloned = clone(aws.client("emr"), args.cluster, deployment.home, args.name)
    for line in cloned.left_out:
        log.info("differs from the cluster: %s", line)
    if args.write:
        path = shapes.shape_file(deployment.home, args.name)
        path.write_text(json.dumps(cloned.values, indent=2, ensure_ascii=False) + "\n")
        log.info("written: %s", path)
    return cloned.values
