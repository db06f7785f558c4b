"""A script that predicts image by image: one model for each partition, one predict call for each image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from pyspark.ml.feature import PCA
from pyspark.ml.linalg import Vectors
from pyspark.sql import SparkSession

from benchmarks.jobs import command


def main() -> None:
    args = command.parse(__doc__, "images", "weights", "output", "components")
    started = time.monotonic()
    spark = SparkSession.builder.appName("single").getOrCreate()
    from benchmarks.jobs import keras_model

    weights = spark.sparkContext.broadcast(keras_model.build(args.weights).get_weights())
    cores = spark.sparkContext.defaultParallelism
    images = (
        spark.read.format("binaryFile")
        .option("pathGlobFilter", "*.jpg")
        .option("recursiveFileLookup", "true")
        .load(args.images)
        .select("path", "content")
        .repartition(4 * cores)
    )

    def predict(rows: Iterator[Any]) -> Iterator[Any]:
        from benchmarks.jobs import keras_model

        model = keras_model.with_weights(weights.value)
        for row in rows:
            image = np.expand_dims(keras_model.preprocess(bytes(row.content)), axis=0)
            features = model.predict(image, verbose=0)[0]
            yield row.path, row.path.split("/")[-2], Vectors.dense(features.tolist())

    # Without the cache, each pass of the PCA would compute everything again.
    features = images.rdd.mapPartitions(predict).toDF(["path", "label", "features"]).cache()
    pca = PCA(k=args.components, inputCol="features", outputCol="pca").fit(features)
    embeddings = pca.transform(features).select("path", "label", "pca")
    embeddings.write.mode("overwrite").parquet(f"{args.output}/pca")
    kept = float(pca.explainedVariance.toArray().sum())
    rows = spark.read.parquet(f"{args.output}/pca").count()
    command.answer(variance_kept=kept, rows=rows, seconds=time.monotonic() - started)
    spark.stop()


if __name__ == "__main__":
    main()
