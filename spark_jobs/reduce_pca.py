"""EMR step 2: an exact PCA of the features.

    spark-submit --py-files image_features.zip reduce_pca.py \\
        --features s3://bucket/runs/r1/features --output s3://bucket/runs/r1/pca --components 50 \\
        --model s3://bucket/models/<digest>

Writes the embeddings as shards, model.npz (scikit-learn's names) and summary.json; with --model
also embed.tflite, which turns an image into its embedding. All URIs may be s3://, file:// or plain
paths. Exit codes: 0 done, 2 bad input (one line on stderr), 1 anything unforeseen.
"""

from __future__ import annotations

import argparse
import sys

from image_features import reduction, step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--features", required=True, metavar="URI", help="the features' prefix")
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the embeddings go to")
    kept = parser.add_mutually_exclusive_group(required=True)
    kept.add_argument("--components", type=step.at_least_one, metavar="N", help="components to keep")
    kept.add_argument(
        "--variance", type=step.share, metavar="SHARE", help="share of variance to keep, 0.9 say"
    )
    parser.add_argument(
        "--model",
        metavar="URI",
        help="prefix of backbone.tflite, model.json: also write embed.tflite",
    )
    args = parser.parse_args(argv)

    def run() -> None:
        with step.spark_session("reduce_pca") as spark:
            done = reduction.run(
                spark, args.features, args.output, args.components, args.variance, args.model
            )
        print(
            f"images {done.images}, {done.width} features to {done.components} components, "
            f"variance kept {done.variance_kept:.2%}, {done.seconds:.1f} s"
        )

    return step.main(run)


if __name__ == "__main__":
    sys.exit(main())
