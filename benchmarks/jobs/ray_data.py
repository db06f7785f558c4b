"""Ray Data: binary files, the Keras model in one actor for each core, features to parquet."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import command

BATCH = 32


class Model:
    """The model and the reading of images, in one actor."""

    def __init__(self, weights: str) -> None:
        from benchmarks.jobs import keras_model

        self._model = keras_model.build(weights, threads=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        from benchmarks.jobs import keras_model

        pixels = np.stack([keras_model.preprocess(content) for content in batch["bytes"]])
        return {"path": batch["path"], "features": self._model.predict_on_batch(pixels)}


def main() -> None:
    args = command.parse(__doc__, "images", "weights", "output", "cores")
    import ray

    # By default Ray's workers have the lowest priority.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - spelt so by Ray
    # One slot for each actor, and two for reading and writing.
    ray.init(
        num_cpus=args.cores + 2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path.cwd())}},
    )
    started = time.monotonic()
    images = ray.data.read_binary_files(args.images, include_paths=True, file_extensions=["jpg"])
    features = images.map_batches(
        Model,
        fn_constructor_args=(args.weights,),
        batch_size=BATCH,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=args.cores),
    )
    features.write_parquet(args.output)
    seconds = time.monotonic() - started
    command.answer(images=ray.data.read_parquet(args.output).count(), seconds=seconds)


if __name__ == "__main__":
    main()
