"""Draw a sample of a source and pack it into shards.

    python -m fruit_pipeline sample --source ~/fruits --output /tmp/run/sample --per-label 20
    python -m fruit_pipeline sample --source s3://photos/fruits --output s3://bucket/runs/r1/sample --all

The draw is stratified by label and depends only on the seed and the names of the images: each image
has a rank, the SHA-256 of seed and name, and the lowest ranks are taken. The same seed gives the same
sample on any machine, and a larger sample contains the smaller one.

With --no-pack nothing is copied: the shards list the images, and the workers read them from the
bucket that they are in. Small images are read faster when they are packed.
"""

from __future__ import annotations

import argparse

from fruit_pipeline import settings
from fruit_pipeline.commands.options import add_options
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.labels import FIRST, LABEL_FROM
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.arguments import Parser, at_least_one
from image_features.contract import SampleMarker
from image_features.storage import S3Access, Storage


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--source", required=True, metavar="URI", help="folder or s3:// prefix of <label>/<image>"
    )
    add_options(parser, "--output", help="prefix that the sample goes to")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--per-label", type=at_least_one, metavar="N", help="images of each label")
    size.add_argument("--total", type=at_least_one, metavar="N", help="images in all, labels in proportion")
    size.add_argument("--all", action="store_true", help="all images")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME", help="only this label; repeatable"
    )
    parser.add_argument(
        "--label-from",
        choices=list(LABEL_FROM),
        default=FIRST,
        help="the folder that gives the label: the first, the image's parent, the one at a depth, or one "
        "label for all (default: %(default)s)",
    )
    add_options(parser, "--no-pack")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    parser.add_argument(
        "--cores", type=at_least_one, default=2, metavar="N", help="of the cluster (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> SampleMarker:
    request = SampleRequest(
        args.source,
        args.per_label,
        args.total,
        tuple(args.label),
        args.seed,
        args.cores,
        pack=not args.no_pack,
        label_from=args.label_from,
        requester_pays=settings.load().source_requester_pays,
    )
    source = Source(args.source, access=S3Access(request_payer=request.requester_pays))
    return write_sample(request, source, Storage(args.output, create=True))
