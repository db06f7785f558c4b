"""pyspark.ml's PCA over a prefix of features shards."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from pyspark.ml.feature import PCA
from pyspark.sql import SparkSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--components", type=int, required=True)
    args = parser.parse_args()
    spark = SparkSession.builder.appName("ml_pca").getOrCreate()
    started = time.monotonic()
    rows = spark.read.parquet(f"{args.features}/shard-*.parquet")
    vectors = rows.select("image", "label", array_to_vector(spark, "features").alias("features"))
    pca = PCA(k=args.components, inputCol="features", outputCol="embedding").fit(vectors)
    embeddings = pca.transform(vectors).select("image", "label", "embedding")
    embeddings.write.mode("overwrite").parquet(args.output)
    seconds = time.monotonic() - started
    kept = float(pca.explainedVariance.toArray().sum())
    print("RESULT", json.dumps({"variance_kept": kept, "seconds": seconds}))
    spark.stop()


def array_to_vector(spark: SparkSession, name: str) -> Any:
    """pyspark.ml.functions.array_to_vector, whose module cannot be imported without pandas."""
    from pyspark.sql.column import Column, _to_java_column

    functions = spark.sparkContext._jvm.org.apache.spark.ml.functions
    return Column(functions.array_to_vector(_to_java_column(name)))


if __name__ == "__main__":
    main()
