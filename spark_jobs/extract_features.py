"""EMR step 1: the features of every image of a sample.

    spark-submit --py-files image_features.zip extract_features.py \\
        --sample s3://bucket/runs/r1/sample --model s3://bucket/models/<digest> \\
        --output s3://bucket/runs/r1/features

All URIs may be s3://, file:// or plain paths. Running it again computes only the missing shards.
"""

from __future__ import annotations

import sys

from image_features import cli, extraction
from image_features.arguments import at_least_one, share_or_all
from image_features.contract import FeaturesMarker
from image_features.images import DEFAULT_MAX_PIXELS
from image_features.spark import spark_session


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--sample", required=True, metavar="URI", help="prefix of the sample")
    parser.add_argument("--model", required=True, metavar="URI", help="prefix of backbone.tflite, model.json")
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the features go to")
    parser.add_argument("--rejects", metavar="URI", help="default: 'rejects' beside the output")
    parser.add_argument(
        "--max-pixels",
        type=at_least_one,
        default=DEFAULT_MAX_PIXELS,
        metavar="N",
        help="images of more pixels are rejected undecoded (default: %(default)s)",
    )
    parser.add_argument(
        "--reuse",
        metavar="URI",
        help="an earlier run, such as s3://bucket/runs/r0: copy its features of images with the same bytes; "
        "its backbone and preprocessing must be the same",
    )
    parser.add_argument(
        "--max-reject-rate",
        type=share_or_all,
        default=1.0,
        metavar="SHARE",
        help="fail, after everything is written, above this share of rejects (default: 1, never)",
    )
    parser.add_argument(
        "--count-left-out",
        action="store_true",
        help="count files of the source that are left out of the sample as rejects",
    )
    args = parser.parse_args(argv)

    def run() -> FeaturesMarker:
        with spark_session("extract_features") as spark:
            return extraction.run(
                spark,
                args.sample,
                args.model,
                args.output,
                args.rejects,
                args.max_pixels,
                args.reuse,
                args.max_reject_rate,
                args.count_left_out,
            )

    def show(marker: FeaturesMarker) -> None:
        conversions = "".join(f"{kind} {count}, " for kind, count in marker.conversions.items())
        print(
            f"images {marker.images}, features {marker.features} (reused {marker.reused}), "
            f"rejects {marker.rejects}, {conversions}"
            f"shards {len(marker.shards)} (computed {marker.computed_shards}), {marker.seconds:.1f} s"
        )

    return cli.main(run, args, show)


if __name__ == "__main__":
    cli.use_utf8()
    sys.exit(main())
