"""Plain Keras in one process: one predict call over batches of 32, which threads read ahead."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.jobs import command

BATCH = 32


def main() -> None:
    args = command.parse(__doc__, "images", "weights", "output", "readers")
    import keras
    import numpy as np

    from benchmarks.jobs import keras_model

    files = sorted(path for path in Path(args.images).rglob("*") if path.is_file())

    class Batches(keras.utils.PyDataset):
        def __init__(self, paths: list[Path], **options: Any) -> None:
            super().__init__(**options)
            self._paths = paths

        def __len__(self) -> int:
            return -(-len(self._paths) // BATCH)

        def __getitem__(self, number: int) -> Any:
            part = self._paths[number * BATCH : (number + 1) * BATCH]
            return np.stack([keras_model.preprocess(path.read_bytes()) for path in part])

    model = keras_model.build(args.weights)
    # The first call traces the graph. Its time counts in the total, not in the loop.
    model.predict(Batches((files * BATCH)[:BATCH]), verbose=0)
    started = time.monotonic()
    features = model.predict(Batches(files, workers=args.readers, max_queue_size=16), verbose=0)
    seconds = time.monotonic() - started
    np.save(args.output, features)
    command.answer(images=len(features), loop_seconds=seconds)


if __name__ == "__main__":
    main()
