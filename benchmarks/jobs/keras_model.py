"""The Keras model and the reading of images of all compared scripts, written as in notebooks."""

from __future__ import annotations

import io
from typing import Any


def build(weights: str, threads: int | None = None) -> Any:
    """MobileNetV2 up to its pooling; ``weights``: "imagenet", "random:<seed>" or a file.

    ``threads`` limits the threads of TensorFlow in this process; the default is one for each core.
    """
    import keras

    if threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    from keras.applications.mobilenet_v2 import MobileNetV2

    arguments = {"include_top": False, "pooling": "avg", "input_shape": (224, 224, 3)}
    if weights == "imagenet":
        return MobileNetV2(weights="imagenet", **arguments)
    if weights.startswith("random:"):
        keras.utils.set_random_seed(int(weights.removeprefix("random:")))
        return MobileNetV2(weights=None, **arguments)
    model = MobileNetV2(weights=None, **arguments)
    model.load_weights(weights)
    return model


def with_weights(values: list[Any]) -> Any:
    """A new model with weights from a broadcast."""
    from keras.applications.mobilenet_v2 import MobileNetV2

    model = MobileNetV2(weights=None, include_top=False, pooling="avg", input_shape=(224, 224, 3))
    model.set_weights(values)
    return model


def preprocess(content: bytes) -> Any:
    """A file's bytes as the float32 array (224, 224, 3) that the model takes."""
    from keras.applications.mobilenet_v2 import preprocess_input
    from keras.utils import img_to_array
    from PIL import Image

    image = Image.open(io.BytesIO(content)).convert("RGB").resize((224, 224))
    return preprocess_input(img_to_array(image))
