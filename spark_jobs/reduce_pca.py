"""EMR step 2: an exact PCA of the features.

    spark-submit --py-files image_features.zip reduce_pca.py \\
        --features s3://bucket/runs/r1/features --output s3://bucket/runs/r1/pca --components 50 \\
        --model s3://bucket/models/<digest>

Writes the embeddings as shards, model.npz (with scikit-learn's names) and summary.json; with --model also
embed.tflite, which turns an image into its embedding. All URIs may be s3://, file:// or plain paths.
"""

from __future__ import annotations

import sys

from image_features import cli, reduction
from image_features.arguments import at_least_one, share
from image_features.contract import PcaMarker
from image_features.spark import spark_session


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--features", required=True, metavar="URI", help="prefix of the features")
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the embeddings go to")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--components", type=at_least_one, metavar="N", help="components to keep")
    size.add_argument("--variance", type=share, metavar="SHARE", help="share of variance to keep, 0.9 say")
    parser.add_argument(
        "--model", metavar="URI", help="prefix of backbone.tflite, model.json: also write embed.tflite"
    )
    args = parser.parse_args(argv)

    def run() -> PcaMarker:
        with spark_session("reduce_pca") as spark:
            return reduction.run(
                spark, args.features, args.output, args.components, args.variance, args.model
            )

    def show(marker: PcaMarker) -> None:
        print(
            f"images {marker.images}, {marker.width} features to {marker.components} components, "
            f"variance kept {marker.variance_kept:.2%}, {marker.seconds:.1f} s"
        )

    return cli.main(run, args, show)


if __name__ == "__main__":
    cli.use_utf8()
    sys.exit(main())
