"""Estimate the time and the cost of a run's cluster, in three cases.

    python -m fruit_pipeline estimate --images 67692 --shape standard
    python -m fruit_pipeline estimate --images 5000 --image-bytes 3000000 --backbone resnet50

Only the cluster is estimated, from its request to its end: drawing and uploading the sample takes time
on the Airflow worker, and almost no money. The cases are `expected` (Spot where the shape has it),
`low` (the cheapest and fastest instance types) and `high` (on demand, the most expensive and slowest types, a
slow start); docs/cost.md says how they are computed. A run that resumes or reuses computes less; the
estimate ignores that.
"""

from __future__ import annotations

import argparse

from fruit_pipeline import settings
from fruit_pipeline.cluster.shapes import load_shape
from fruit_pipeline.commands.options import add_options
from fruit_pipeline.cost import prices
from fruit_pipeline.cost.estimate import CostEstimate, Work, estimate, table
from fruit_pipeline.cost.measured import SMALL_IMAGE_BYTES
from fruit_pipeline.model.backbones import BackboneRequest
from image_features.arguments import Parser, at_least_one


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--images", required=True, type=at_least_one, metavar="N", help="number of images")
    add_options(parser, "--shape", "--region")
    parser.add_argument(
        "--image-bytes",
        type=at_least_one,
        default=SMALL_IMAGE_BYTES,
        metavar="BYTES",
        help="mean size of an image file (default: %(default)s)",
    )
    add_options(parser, "--backbone", "--alpha", "--input-size", "--precision", "--no-pack")


def run(args: argparse.Namespace) -> CostEstimate:
    # Any weights take the same time; random ones exist for every alpha and input size.
    BackboneRequest(args.backbone, args.alpha, "random:0", args.input_size)
    deployment = settings.load()
    work = Work(
        args.images,
        args.image_bytes,
        args.backbone,
        args.alpha,
        args.input_size,
        args.precision,
        not args.no_pack,
    )
    shape = load_shape(deployment.home, args.shape)
    return estimate(work, args.shape, shape, prices.load(deployment.home, args.region or deployment.region))


def show(result: CostEstimate) -> None:
    print(table(result))
