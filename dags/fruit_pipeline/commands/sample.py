"""Draw a sample of a source and pack it into shards.

    python -m fruit_pipeline sample --source ~/fruits --output /tmp/run/sample --per-label 20
    python -m fruit_pipeline sample --source s3://photos/fruits --output s3://bucket/runs/r1/sample --all

The draw is stratified by label and depends only on the seed and the names of the images: each
image has a rank, the SHA-256 of seed and name, and the lowest ranks are taken. The same seed gives
the same sample on any machine, and a larger sample holds the smaller one.

With --no-pack nothing is copied: the shards list the images, and the workers read them from the
bucket where they lie. Small images are read faster when they are packed.
"""

from __future__ import annotations

from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.cli import at_least_one
from image_features.contract import SampleMarker
from image_features.storage import Storage


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument(
        "--source", required=True, metavar="URI", help="folder or s3:// prefix of <label>/<image>"
    )
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the sample goes to")
    drawn = parser.add_mutually_exclusive_group(required=True)
    drawn.add_argument("--per-label", type=at_least_one, metavar="N", help="images of each label")
    drawn.add_argument("--total", type=at_least_one, metavar="N", help="images in all, labels in proportion")
    drawn.add_argument("--all", action="store_true", help="all images")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME", help="only this label; repeatable"
    )
    parser.add_argument(
        "--no-pack", action="store_true", help="copy nothing: the workers read the s3:// source themselves"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--cores", type=at_least_one, default=2, help="of the cluster (default: %(default)s)")
    args = parser.parse_args(argv)

    def run() -> SampleMarker:
        request = SampleRequest(
            args.source,
            args.per_label,
            args.total,
            tuple(args.label),
            args.seed,
            args.cores,
            pack=not args.no_pack,
        )
        return write_sample(request, Source(args.source), Storage(args.output, create=True))

    return commands_cli.run(run, args)
