"""EMR step 2: an exact PCA of the features.

    spark-submit --py-files image_features.zip reduce_pca.py \\
        --features s3://bucket/runs/r1/features --output s3://bucket/runs/r1/pca --components 50 \\
        --model s3://bucket/models/<digest>

Writes the embeddings as shards, model.npz (scikit-learn's names) and summary.json; with --model
also embed.tflite, which turns an image into its embedding. All URIs may be s3://, file:// or plain
paths.
"""

from __future__ import annotations

import sys

from image_features import cli, reduction
from image_features import spark as image_features_spark
from image_features.contract import PcaMarker


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--features", required=True, metavar="URI", help="the features' prefix")
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the embeddings go to")
    kept = parser.add_mutually_exclusive_group(required=True)
    kept.add_argument("--components", type=cli.at_least_one, metavar="N", help="components to keep")
    kept.add_argument(
        "--variance", type=cli.share, metavar="SHARE", help="share of variance to keep, 0.9 say"
    )
    parser.add_argument(
        "--model",
        metavar="URI",
        help="prefix of backbone.tflite, model.json: also write embed.tflite",
    )
    args = parser.parse_args(argv)

    def run() -> PcaMarker:
        with image_features_spark.spark_session("reduce_pca") as spark:
            return reduction.run(
                spark, args.features, args.output, args.components, args.variance, args.model
            )

    def show(done: PcaMarker) -> None:
        print(
            f"images {done.images}, {done.width} features to {done.components} components, "
            f"variance kept {done.variance_kept:.2%}, {done.seconds:.1f} s"
        )

    return cli.main(run, args, show)


if __name__ == "__main__":
    sys.exit(main())
