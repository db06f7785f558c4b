"""pyspark.ml's PCA over a prefix of features shards."""

from __future__ import annotations

import time

from pyspark.ml.feature import PCA
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession

from benchmarks.jobs import command


def main() -> None:
    args = command.parse(__doc__, "features", "output", "components")
    spark = SparkSession.builder.appName("ml_pca").getOrCreate()
    started = time.monotonic()
    rows = spark.read.parquet(f"{args.features}/shard-*.parquet")
    vectors = rows.select("image", "label", array_to_vector("features").alias("features"))
    pca = PCA(k=args.components, inputCol="features", outputCol="embedding").fit(vectors)
    embeddings = pca.transform(vectors).select("image", "label", "embedding")
    embeddings.write.mode("overwrite").parquet(args.output)
    seconds = time.monotonic() - started
    kept = float(pca.explainedVariance.toArray().sum())
    command.answer(variance_kept=kept, seconds=seconds)
    spark.stop()


if __name__ == "__main__":
    main()
