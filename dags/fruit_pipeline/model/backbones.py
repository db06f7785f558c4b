"""The backbones that can be exported, and a request for one. Plain data, without numpy or Keras."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path

from image_features.contract import SCHEMA_VERSION, digest_of
from image_features.errors import JobError

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
        versions = [f"{name} {version}" for name, version in sorted(exporter_versions().items())]
        return digest_of(
            str(SCHEMA_VERSION), self.backbone, str(self.alpha), str(self.input_size), weights, *versions
        )


def exporter_versions() -> dict[str, str]:
    names = {"keras": "keras", "tensorflow": "tensorflow", "litert": "ai-edge-litert"}
    found = {}
    for short, distribution in names.items():
        try:
            found[short] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            found[short] = importlib.metadata.version(f"{distribution}-cpu")
    return found


PRECISIONS = ("float32", "int8")

DEFAULT_MIN_COSINE = 0.95

MIN_IMAGES = 50
"""Fewer tell too little of the activations' ranges, and of the quality."""


def check_precision(precision: str, request: BackboneRequest) -> None:
    """Raise JobError for a precision that does not exist, or that the weights do not allow."""
    if precision not in PRECISIONS:
        raise JobError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "int8" and request.seed is not None and request.backbone == "mobilenet_v2":
        # Features of 1e-10, where the converter's smallest range is 1e-6.
        raise JobError(f"int8 needs trained weights; with {request.weights} its features would all be zero")
