"""Export a Keras backbone once to LiteRT, checked against Keras, and cache it.

    python -m fruit_pipeline.backbone --backbone mobilenet_v2 --weights imagenet --output /tmp/run/model
    python -m fruit_pipeline.backbone --weights ~/mobilenetv2.weights.h5 --output s3://bucket/models
    python -m fruit_pipeline.backbone --input-size 160 --precision int8 --sample /tmp/run/sample \
      --output /tmp/run/model

The features are the global average pooling of the last convolution (1,280 for MobileNetV2, 2,048
for ResNet50). Weights are "imagenet" (Keras downloads them), a Keras weights file, or
"random:<seed>" for trying things out. With int8 the model is quantised on images of the sample.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_features.contract import (
    MODEL_FILE,
    MODEL_JSON,
    SCHEMA_VERSION,
    BackboneSpec,
    digest_of,
    find_document,
    to_json,
)
from image_features.errors import JobError
from image_features.storage import Storage

log = logging.getLogger(__name__)

KERAS_TOLERANCE = 1e-4
"""Largest accepted |LiteRT - Keras| / |Keras| (Euclidean norms of an image's features)."""

_CHECK_IMAGES = 8
_RANDOM = re.compile(r"random:(\d+)")


@dataclass(frozen=True)
class KerasBackbone:
    """A member of keras.applications that we know how to feed."""

    application: str  # the function in keras.applications
    preprocessing: str  # its preprocess_input mode
    imagenet_alphas: tuple[float, ...]  # width multipliers with published weights
    input_sizes: tuple[int, ...]  # pixels, square, that it was trained with
    # The first operators, which an int8 model keeps in float32: see fruit_pipeline.precision.
    float_operators: int
    # Images an invocation. 8 is as fast as 32 and takes half the memory.
    batch: int = 8


# https://keras.io/api/applications/
BACKBONES = {
    "mobilenet_v2": KerasBackbone(
        "MobileNetV2", "tf", (0.35, 0.5, 0.75, 1.0, 1.3, 1.4), (96, 128, 160, 192, 224), float_operators=3
    ),
    "resnet50": KerasBackbone("ResNet50", "caffe", (1.0,), (224,), float_operators=0),
}
INPUT_SIZES = sorted({size for known in BACKBONES.values() for size in known.input_sizes})
DEFAULT_INPUT_SIZE = 224


@dataclass(frozen=True)
class BackboneRequest:
    """Which network with which weights."""

    backbone: str = "mobilenet_v2"
    alpha: float = 1.0
    weights: str = "imagenet"
    input_size: int = DEFAULT_INPUT_SIZE

    def __post_init__(self) -> None:
        known = BACKBONES.get(self.backbone)
        if known is None:
            raise JobError(f"unknown backbone {self.backbone!r}; expected one of {', '.join(BACKBONES)}")
        if self.backbone == "resnet50" and self.alpha != 1.0:
            raise JobError(f"resnet50 has no width multiplier: alpha must be 1.0, not {self.alpha}")
        if not 0 < self.alpha <= 2:
            raise JobError(f"alpha must lie above 0 and at most at 2, not {self.alpha}")
        if self.weights == "imagenet" and self.alpha not in known.imagenet_alphas:
            offered = ", ".join(map(str, known.imagenet_alphas))
            raise JobError(
                f"{self.backbone} has no ImageNet weights for alpha {self.alpha}; there are {offered}"
            )
        if self.input_size not in known.input_sizes:
            offered = ", ".join(map(str, known.input_sizes))
            raise JobError(f"{self.backbone} takes no input size {self.input_size}; there are {offered}")
        # 22 models were published: five sizes up to alpha 1.0, one for 1.3 and 1.4.
        if self.weights == "imagenet" and self.alpha > 1 and self.input_size != DEFAULT_INPUT_SIZE:
            raise JobError(
                f"{self.backbone} has ImageNet weights for alpha {self.alpha} with input size "
                f"{DEFAULT_INPUT_SIZE} only, not {self.input_size}"
            )
        if self.weights.startswith("random:") and not _RANDOM.fullmatch(self.weights):
            raise JobError(f"weights {self.weights!r}: expected random:<whole number>")

    @property
    def seed(self) -> int | None:
        match = _RANDOM.fullmatch(self.weights)
        return int(match[1]) if match else None

    @property
    def weights_file(self) -> Path | None:
        if self.weights == "imagenet" or self.seed is not None:
            return None
        return Path(self.weights).expanduser()

    def check_weights_file(self) -> None:
        """Raise JobError when the weights are a file that is not there."""
        if self.weights_file is not None and not self.weights_file.is_file():
            raise JobError(
                f"the weights file {self.weights_file} does not exist; expected imagenet, random:<seed> "
                "or a Keras weights file (.h5)"
            )

    def cache_key(self) -> str:
        """Digest of all that decides the exported file, the exporter's versions included."""
        file = self.weights_file
        weights = hashlib.sha256(file.read_bytes()).hexdigest() if file else self.weights
        versions = [f"{name} {version}" for name, version in sorted(_versions().items())]
        return digest_of(
            str(SCHEMA_VERSION), self.backbone, str(self.alpha), str(self.input_size), weights, *versions
        )


def export(request: BackboneRequest, cache_dir: Path) -> tuple[BackboneSpec, Storage]:
    """Return the exported backbone from the cache, exporting it first when it is not there.

    Raises JobError when the weights are missing, cannot be downloaded, belong to another network,
    or when LiteRT does not agree with Keras.
    """
    request.check_weights_file()
    cached = Storage(str(cache_dir / "models" / request.cache_key()), create=True)
    spec = find_document(BackboneSpec, cached, MODEL_JSON)
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
    cached.put(MODEL_JSON, to_json(spec))  # last: it makes the pair a whole one
    log.info("exported %.1f MB, agrees with Keras within %.1e", len(model) / 1e6, spec.keras_agreement)
    return spec, cached


def publish(spec: BackboneSpec, cached: Storage, target: Storage) -> str:
    """Copy a backbone to its digest below ``target``, unless it stands there whole; return its URI."""
    try:
        standing = find_document(BackboneSpec, target, f"{spec.digest}/{MODEL_JSON}")
        whole = hashlib.sha256(target.get(f"{spec.digest}/{MODEL_FILE}")).hexdigest() == spec.digest
    except JobError:
        standing, whole = None, False  # of another schema version, or damaged: written again
    if standing is None or not whole:
        target.put(f"{spec.digest}/{MODEL_FILE}", cached.get(MODEL_FILE))
        target.put(f"{spec.digest}/{MODEL_JSON}", cached.get(MODEL_JSON))
    return target.uri_of(spec.digest)


@contextmanager
def converter(request: BackboneRequest) -> Iterator[tuple[Any, Any]]:
    """The Keras model and TensorFlow's converter of it to LiteRT, with its files until the block ends."""
    # Set before TensorFlow is imported: its start-up remarks would bury the task's own log.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    model = _load(keras, request, BACKBONES[request.backbone])
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
        keras_agreement=_compare(model, known, tflite, request.input_size),
        exported_with=_versions(),
    )
    return spec, tflite


def _load(keras: Any, request: BackboneRequest, known: KerasBackbone) -> Any:
    build = getattr(keras.applications, known.application)
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
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise JobError(
                f"the ImageNet weights of {request.backbone} cannot be downloaded ({_first_line(error)}); "
                "give a weights file, or random:0 to try the pipeline without them"
            ) from error
    model = build(**arguments)
    try:
        model.load_weights(request.weights_file)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise JobError(
            f"{request.weights_file} does not fit {request.backbone} with alpha {request.alpha} and no top "
            f"layer: {_first_line(error)}"
        ) from error
    return model


def _compare(model: Any, known: KerasBackbone, tflite: bytes, input_size: int = DEFAULT_INPUT_SIZE) -> float:
    """Largest relative difference of LiteRT to Keras over a few drawn images; JobError when too large."""
    import keras
    import numpy as np

    from fruit_pipeline.drawn_images import KINDS, draw
    from image_features.images import decode_rgb
    from image_features.inference import Backbone

    contents = [draw(kind, 0) for kind in KINDS[:_CHECK_IMAGES]]
    module = getattr(
        keras.applications, {"MobileNetV2": "mobilenet_v2", "ResNet50": "resnet50"}[known.application]
    )
    pixels = np.stack([decode_rgb(content, input_size) for content in contents]).astype(np.float32)
    expected = np.asarray(model.predict(module.preprocess_input(pixels), verbose=0))
    probe = BackboneSpec(
        "", 1.0, "", input_size, expected.shape[1], known.preprocessing, known.batch, "", 0.0
    )
    found, _ = Backbone(tflite, probe).features(contents)
    differences = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    worst = float(differences.max())
    if not worst <= KERAS_TOLERANCE:
        raise JobError(f"LiteRT and Keras differ by {worst:.1e} relative, allowed is {KERAS_TOLERANCE:.0e}")
    return worst


def _versions() -> dict[str, str]:
    names = {"keras": "keras", "tensorflow": "tensorflow", "litert": "ai-edge-litert"}
    found = {}
    for short, distribution in names.items():
        try:
            found[short] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[short] = importlib.metadata.version(f"{distribution}-cpu")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import cli, precision, settings

    parser = cli.parser(__doc__)
    parser.add_argument("--backbone", default="mobilenet_v2", choices=sorted(BACKBONES))
    parser.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: %(default)s)")
    parser.add_argument("--weights", default="imagenet", help="imagenet, a file, or random:<seed>")
    parser.add_argument(
        "--input-size",
        type=int,
        default=DEFAULT_INPUT_SIZE,
        metavar="PIXELS",
        help=f"{', '.join(map(str, INPUT_SIZES))} (default: %(default)s)",
    )
    parser.add_argument("--precision", default="float32", choices=precision.PRECISIONS)
    parser.add_argument("--sample", metavar="URI", help="for int8: the sample to calibrate on")
    parser.add_argument(
        "--min-cosine",
        type=float,
        default=precision.DEFAULT_MIN_COSINE,
        help="for int8: least mean cosine of its features to those of float32 (default: %(default)s)",
    )
    parser.add_argument("--output", required=True, metavar="URI", help="the model goes to <output>/<digest>")
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        from dataclasses import asdict

        request = BackboneRequest(args.backbone, args.alpha, args.weights, args.input_size)
        cache_dir = settings.load().cache_dir
        precision.check_precision(args.precision, request)
        if args.precision == "int8":
            if not args.sample:
                raise JobError("int8 is calibrated on images: say with --sample which")
            spec, cached = precision.quantise(request, Storage(args.sample), cache_dir, args.min_cosine)
        else:
            spec, cached = export(request, cache_dir)
        return {"uri": publish(spec, cached, Storage(args.output, create=True)), **asdict(spec)}

    return cli.run(run, args)


if __name__ == "__main__":
    sys.exit(main())
