"""The usual notebook as one script: Spark reads images, Keras in a pandas UDF, pyspark.ml's PCA.

It is lazy, as published: each action that needs the features computes them again. With --features-once,
they are written to parquet and read back before the PCA.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
from pyspark.ml.feature import PCA
from pyspark.ml.linalg import Vectors, VectorUDT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import PandasUDFType, element_at, pandas_udf, split, udf

from benchmarks.jobs import command

PARTITIONS = 24


def main() -> None:
    args = command.parse(__doc__, "images", "weights", "output", "components", switches=("features-once",))
    started = time.monotonic()
    spark = SparkSession.builder.appName("notebook").getOrCreate()
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "1024")
    from benchmarks.jobs import keras_model

    weights = spark.sparkContext.broadcast(keras_model.build(args.weights).get_weights())
    images = (
        spark.read.format("binaryFile")
        .option("pathGlobFilter", "*.jpg")
        .option("recursiveFileLookup", "true")
        .load(args.images)
        .withColumn("label", element_at(split("path", "/"), -2))
        .repartition(PARTITIONS)
    )
    features = featurize(images, weights)
    if args.features_once:
        features.write.mode("overwrite").parquet(f"{args.output}/features")
        features = spark.read.parquet(f"{args.output}/features")

    to_vector = udf(lambda values: Vectors.dense(values), VectorUDT())
    vectors = features.select("path", "label", to_vector("features").alias("features"))
    pca = PCA(k=args.components, inputCol="features", outputCol="pca").fit(vectors)
    embeddings = pca.transform(vectors).select("path", "label", "pca")
    embeddings.write.mode("overwrite").parquet(f"{args.output}/pca")
    kept = float(pca.explainedVariance.toArray().sum())
    rows = spark.read.parquet(f"{args.output}/pca").count()
    command.answer(variance_kept=kept, rows=rows, seconds=time.monotonic() - started)
    spark.stop()


def featurize(images: DataFrame, weights: Any) -> DataFrame:
    """Rows of path, label and features; one predict call for each Arrow batch."""

    @pandas_udf("array<float>", PandasUDFType.SCALAR_ITER)
    def featurize_udf(batches):  # type: ignore[no-untyped-def]
        from benchmarks.jobs import keras_model

        model = keras_model.with_weights(weights.value)
        for contents in batches:
            batch = np.stack([keras_model.preprocess(content) for content in contents])
            yield pd.Series([row.flatten() for row in model.predict(batch, verbose=0)])

    return images.select("path", "label", featurize_udf("content").alias("features"))


if __name__ == "__main__":
    main()
