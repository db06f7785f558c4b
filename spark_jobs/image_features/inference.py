"""The exported backbone in LiteRT: one interpreter for each process, one thread, a fixed batch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from image_features.contract import MODEL_FILE, MODEL_JSON, BackboneSpec, Conversion
from image_features.documents import read_document
from image_features.errors import Damaged, ShortOfMemory, Stage, read_again, reading
from image_features.images import DEFAULT_MAX_PIXELS, Preprocessor, RejectedImage, decode
from image_features.storage import Storage


class Backbone:
    """Turns image files into feature vectors.

    It uses one thread: Spark runs one worker process on each core, and two processes of one thread are
    faster than one process of two threads.
    """

    def __init__(self, model: bytes, spec: BackboneSpec) -> None:
        self.spec = spec
        self._preprocess = Preprocessor(spec.preprocessing)
        self._interpreter = Interpreter(model_content=model, num_threads=1)
        self._input = self._interpreter.get_input_details()[0]["index"]
        shape = (spec.batch, spec.input_size, spec.input_size, 3)
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()
        self._output = self._interpreter.get_output_details()[0]["index"]

    def features(
        self,
        contents: Sequence[bytes | memoryview],
        max_pixels: int = DEFAULT_MAX_PIXELS,
        conversions: Counter[Conversion] | None = None,
    ) -> tuple[npt.NDArray[np.float32], dict[int, RejectedImage]]:
        """Compute the features of image files.

        Returns float32 of shape (images accepted, width), in the given order, and the rejected
        images by their position in ``contents``. Adds to ``conversions`` what was done to the pixels of
        the accepted images. Raises ShortOfMemory with the position of the image that this process has
        too little memory for.
        """
        rejected: dict[int, RejectedImage] = {}

        def decoded() -> Iterator[npt.NDArray[np.uint8]]:
            for position, content in enumerate(contents):
                try:
                    image = decode(content, self.spec.input_size, max_pixels)
                except RejectedImage as reject:
                    rejected[position] = reject
                    continue
                except ShortOfMemory as error:
                    error.position = position
                    raise
                if conversions is not None:
                    conversions.update(image.conversions)
                yield image.rgb

        return self.features_of(decoded(), len(contents)), rejected

    def features_of(self, images: Iterable[npt.NDArray[np.uint8]], at_most: int) -> npt.NDArray[np.float32]:
        """Compute the features of decoded images, ``at_most`` of them.

        Each is uint8 (input size, input size, 3); returns float32 (images, width).
        """
        out = np.empty((at_most, self.spec.width), np.float32)
        done = waiting = 0
        for rgb in images:
            # tensor()() is a view of the interpreter's own input, so nothing is copied. It must not
            # outlive this line: LiteRT refuses to run while there is one.
            self._preprocess.fill(rgb, self._interpreter.tensor(self._input)()[waiting])
            waiting += 1
            if waiting == self.spec.batch:
                done = self._flush(out, done, waiting)
                waiting = 0
        if waiting:
            # The last batch is not full: the results of its unused slots are dropped.
            done = self._flush(out, done, waiting)
        return out[:done]

    def _flush(self, out: npt.NDArray[np.float32], done: int, count: int) -> int:
        self._interpreter.invoke()
        out[done : done + count] = self._interpreter.tensor(self._output)()[:count]
        return done + count


@read_again
@reading(Stage.MODEL)
def read_backbone(model_uri: str) -> tuple[BackboneSpec, bytes]:
    """Read ``model.json`` and ``backbone.tflite`` below a URI. Raises Damaged when they do not agree."""
    storage = Storage(model_uri)
    spec = read_document(BackboneSpec, storage, MODEL_JSON)
    model = storage.get(MODEL_FILE).to_pybytes()
    digest = hashlib.sha256(model).hexdigest()
    if digest != spec.digest:
        raise Damaged(
            f"{storage.uri_of(MODEL_FILE)} has SHA-256 {digest}, {MODEL_JSON} beside it says {spec.digest}; "
            "export the backbone again"
        )
    return spec, model


_opened: list[Backbone] = []


def open_once(model: bytes, spec: BackboneSpec) -> Backbone:
    """The process's backbone: opened for the first task, then used by all tasks."""
    if not _opened or _opened[0].spec != spec:
        _opened.clear()  # a worker never needs two at a time
        _opened.append(Backbone(model, spec))
    return _opened[0]
