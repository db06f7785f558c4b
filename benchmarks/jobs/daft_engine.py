"""Daft: images' bytes by URL, the Keras model in a class UDF, features to parquet."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.jobs import command

BATCH = 32


def main() -> None:
    args = command.parse(__doc__, "images", "weights", "output", "cores")
    import daft
    from daft import DataType, col

    @daft.cls(max_concurrency=args.cores, use_process=True)
    class Model:
        def __init__(self, weights: str) -> None:
            from benchmarks.jobs import keras_model

            self.model = keras_model.build(weights, threads=1)

        @daft.method.batch(return_dtype=DataType.list(DataType.float32()), batch_size=BATCH)
        def features(self, contents: Any) -> Any:
            import numpy as np

            from benchmarks.jobs import keras_model

            batch = np.stack([keras_model.preprocess(content) for content in contents.to_pylist()])
            return list(self.model.predict_on_batch(batch))

    model = Model(args.weights)
    started = time.monotonic()
    (
        daft.from_glob_path(f"{args.images}/**/*.jpg")
        .select(col("path"), model.features(col("path").download()).alias("features"))
        .write_parquet(args.output)
    )
    seconds = time.monotonic() - started
    images = daft.read_parquet(f"{args.output}/*.parquet").count_rows()
    command.answer(images=images, seconds=seconds)


if __name__ == "__main__":
    main()
