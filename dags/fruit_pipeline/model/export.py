"""Exports a Keras backbone to LiteRT once, checks it against Keras, and keeps it in a cache.

The features are the global average pooling of the last convolution (1,280 wide for MobileNetV2, 2,048
for ResNet50). Weights are "imagenet" (Keras downloads them), a Keras weights file, or "random:<seed>"
to try the pipeline without any.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fruit_pipeline.model.backbones import (
    BACKBONES,
    BackboneRequest,
    exporter_versions,
)
from fruit_pipeline.sample.drawn_images import KINDS, draw_image
from image_features.contract import MODEL_FILE, MODEL_JSON, BackboneSpec
from image_features.documents import find_document, to_json
from image_features.errors import Damaged, JobError, NotFound, first_line
from image_features.images import decode_rgb
from image_features.inference import Backbone
from image_features.storage import Storage

log = logging.getLogger(__name__)

KERAS_TOLERANCE = 1e-4
"""Largest accepted |LiteRT - Keras| / |Keras| (Euclidean norms of an image's features)."""

_CHECK_IMAGES = 8

_SAME = 1e-6  # largest difference between features that are the same, relative to the largest


def export(request: BackboneRequest, cache_dir: Path) -> tuple[BackboneSpec, Storage]:
    """Return the exported backbone and its folder in the cache; export it first where the cache has none.

    Raises JobError when the weights are missing, cannot be downloaded, belong to another network or cannot
    work, or when LiteRT's features differ from Keras's by more than KERAS_TOLERANCE.
    """
    request.check_weights_file()
    cached = Storage(str(cache_dir / "models" / request.cache_key()), create=True)
    spec = find_cached(cached)
    if spec is not None:
        log.info("the exported backbone is cached: %s, digest %s", spec.backbone, spec.digest[:12])
        return spec, cached
    log.info(
        "exporting %s (alpha %s, input size %d, weights %s) to LiteRT",
        request.backbone,
        request.alpha,
        request.input_size,
        request.weights,
    )
    spec, model = _export(request)
    cached.put(MODEL_FILE, model)
    cached.put(MODEL_JSON, to_json(spec))  # last: its presence says that the pair is complete
    log.info("exported %.1f MB, agrees with Keras within %.1e", len(model) / 1e6, spec.keras_agreement)
    return spec, cached


def find_cached(cached: Storage) -> BackboneSpec | None:
    """The backbone of a folder of the cache; None when there is none, or it is damaged."""
    try:
        spec = find_document(BackboneSpec, cached, MODEL_JSON)
        if spec is None or hashlib.sha256(cached.get(MODEL_FILE)).hexdigest() == spec.digest:
            return spec
        damage = f"{cached.uri_of(MODEL_FILE)} is not the model that {MODEL_JSON} beside it describes"
    except (Damaged, NotFound) as error:
        damage = str(error)
    log.warning("%s; it is made again", damage)
    return None


def publish(spec: BackboneSpec, cached: Storage, target: Storage) -> str:
    """Copy a backbone below ``target`` under its digest, unless it is there and undamaged; return its URI."""
    try:
        published = find_document(BackboneSpec, target, f"{spec.digest}/{MODEL_JSON}") is not None
        undamaged = hashlib.sha256(target.get(f"{spec.digest}/{MODEL_FILE}")).hexdigest() == spec.digest
    except JobError:  # damaged, or of another schema version
        published = undamaged = False
    if not (published and undamaged):
        target.put(f"{spec.digest}/{MODEL_FILE}", cached.get(MODEL_FILE))
        target.put(f"{spec.digest}/{MODEL_JSON}", cached.get(MODEL_JSON))
    return target.uri_of(spec.digest)


@contextmanager
def converter(request: BackboneRequest) -> Iterator[tuple[Any, Any]]:
    """Yield the Keras model and TensorFlow's converter of it to LiteRT; both are usable inside the block."""
    # Before TensorFlow is imported, or its start-up messages would hide the task's own log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    model = load(request)
    with tempfile.TemporaryDirectory() as scratch:
        model.export(scratch, format="tf_saved_model", verbose=False)
        yield model, tf.lite.TFLiteConverter.from_saved_model(scratch)


def _export(request: BackboneRequest) -> tuple[BackboneSpec, bytes]:
    known = BACKBONES[request.backbone]
    with converter(request) as (model, to_litert):
        tflite: bytes = to_litert.convert()
    spec = BackboneSpec(
        backbone=request.backbone,
        alpha=request.alpha,
        weights=request.weights_file.name if request.weights_file else request.weights,
        input_size=request.input_size,
        width=int(model.output_shape[-1]),
        preprocessing=known.preprocessing,
        batch=known.batch,
        digest=hashlib.sha256(tflite).hexdigest(),
        keras_agreement=check_against_keras(model, request, tflite),
        exported_with=exporter_versions(),
    )
    return spec, tflite


def load(request: BackboneRequest) -> Any:
    """The Keras model with its weights. Raises JobError when they are missing or do not fit."""
    import keras

    build = getattr(keras.applications, BACKBONES[request.backbone].application)
    arguments: dict[str, Any] = {
        "include_top": False,
        "pooling": "avg",
        "input_shape": (request.input_size, request.input_size, 3),
        "weights": None,
    }
    if request.backbone == "mobilenet_v2":
        arguments["alpha"] = request.alpha
    if request.seed is not None:
        keras.utils.set_random_seed(request.seed)
        return build(**arguments)
    if request.weights_file is None:
        try:
            return build(**{**arguments, "weights": "imagenet"})
        except Exception as error:  # Keras raises just Exception when a download fails
            raise JobError(
                f"the ImageNet weights of {request.backbone} cannot be downloaded ({first_line(error)}); "
                "give a weights file, or random:0 to try the pipeline without trained weights"
            ) from error
    model = build(**arguments)
    layout = request.check_weights_file()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            # Keras chooses the reader by the suffix, whatever the file is.
            named = Path(scratch) / f"weights{layout}"
            named.symlink_to(request.weights_file.absolute())
            model.load_weights(named)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise JobError(
            f"{request.weights_file} does not fit {request.backbone} with alpha {request.alpha} and no top "
            f"layer: {first_line(error)}"
        ) from error
    return model


def _check_features(features: np.ndarray, request: BackboneRequest) -> None:
    """Raise JobError when the features (images, width) of different images say nothing about them."""
    if not np.isfinite(features).all():
        raise JobError(f"the weights {request.weights} give NaN or infinity for a drawn image")
    if np.ptp(features, axis=0).max() <= _SAME * np.abs(features).max():
        raise JobError(f"the weights {request.weights} give different images the same features")


def check_against_keras(model: Any, request: BackboneRequest, tflite: bytes) -> float:
    """Compare LiteRT's features with Keras's on a few drawn images; return the largest relative difference.

    Raises JobError when it is above KERAS_TOLERANCE, or when the features are the same for all images.
    """
    import keras

    contents = [draw_image(kind, 0) for kind in KINDS[:_CHECK_IMAGES]]
    known, module = BACKBONES[request.backbone], getattr(keras.applications, request.backbone)
    pixels = np.stack([decode_rgb(content, request.input_size) for content in contents]).astype(np.float32)
    expected = np.asarray(model.predict(module.preprocess_input(pixels), verbose=0))
    _check_features(expected, request)
    probe = BackboneSpec(
        "", 1.0, "", request.input_size, expected.shape[1], known.preprocessing, known.batch, "", 0.0
    )
    features, _ = Backbone(tflite, probe).features(contents)
    differences = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    largest = float(differences.max())
    if not largest <= KERAS_TOLERANCE:  # a NaN fails as well
        raise JobError(f"LiteRT and Keras differ by {largest:.1e} relative, allowed is {KERAS_TOLERANCE:.0e}")
    return largest
