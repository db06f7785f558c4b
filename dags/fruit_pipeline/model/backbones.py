"""The backbones that can be exported, and the request for one: plain data, without Keras."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from image_features.contract import SCHEMA_VERSION, digest_of
from image_features.errors import JobError

if TYPE_CHECKING:
    from fruit_pipeline.model.weights_file import Layout

_RANDOM = re.compile(r"random:(\d+)")


@dataclass(frozen=True)
class KerasBackbone:
    """A network of keras.applications whose input this project can prepare."""

    application: str  # the function in keras.applications
    preprocessing: str  # the mode of its preprocess_input
    imagenet_alphas: tuple[float, ...]  # width multipliers with published weights
    input_sizes: tuple[int, ...]  # pixels of a side, that it was trained with
    float_operators: int  # operators at the start that stay float32 in an int8 model, see quantise.py
    ends_in_convolution: bool  # the features are those of the last convolution, without a shortcut around it
    batch: int = 8  # images an invocation: as fast as 32, with half the memory


# https://keras.io/api/applications/
# A key is the name of the module in keras.applications, which holds preprocess_input.
BACKBONES = {
    "mobilenet_v2": KerasBackbone(
        "MobileNetV2",
        "tf",
        (0.35, 0.5, 0.75, 1.0, 1.3, 1.4),
        (96, 128, 160, 192, 224),
        float_operators=3,
        ends_in_convolution=True,
    ),
    "resnet50": KerasBackbone(
        "ResNet50", "caffe", (1.0,), (224,), float_operators=0, ends_in_convolution=False
    ),
}

INPUT_SIZES = sorted({size for known in BACKBONES.values() for size in known.input_sizes})

DEFAULT_INPUT_SIZE = 224

PRECISIONS = ("float32", "int8")

DEFAULT_MIN_COSINE = 0.95

MIN_IMAGES = 50
"""Smallest sample for int8: of fewer images neither the activations' ranges nor the quality are reliable."""


@dataclass(frozen=True)
class BackboneRequest:
    """A network, its weights and its input size. Raises JobError where there is no such combination."""

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
            raise JobError(f"alpha must be above 0 and at most 2, not {self.alpha}")
        if self.weights == "imagenet" and self.alpha not in known.imagenet_alphas:
            offered = ", ".join(map(str, known.imagenet_alphas))
            raise JobError(
                f"{self.backbone} has no ImageNet weights for alpha {self.alpha}; there are {offered}"
            )
        if self.input_size not in known.input_sizes:
            offered = ", ".join(map(str, known.input_sizes))
            raise JobError(f"{self.backbone} has no input size {self.input_size}; there are {offered}")
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

    def check_weights_file(self) -> Layout | None:
        """The layout of the weights' file, None without one. Raises JobError where it cannot work.

        Its content is read, which takes less than a second, and Keras is not needed.
        """
        if self.weights_file is None:
            return None
        if "://" in self.weights:
            raise JobError(
                f"the weights {self.weights} are a URI, which is not read: copy the file to the machine that "
                "exports the backbone, and give its path"
            )
        # Imported here: h5py takes a while, which whoever reads a DAG file must not wait for.
        from fruit_pipeline.model import weights_file

        return weights_file.check(self.weights_file, BACKBONES[self.backbone].ends_in_convolution)

    def cache_key(self) -> str:
        """Digest of everything that the exported file depends on, with the versions of the exporter."""
        file = self.weights_file
        weights = hashlib.sha256(file.read_bytes()).hexdigest() if file else self.weights
        versions = [f"{name} {version}" for name, version in sorted(exporter_versions().items())]
        return digest_of(
            str(SCHEMA_VERSION), self.backbone, str(self.alpha), str(self.input_size), weights, *versions
        )


def exporter_versions() -> dict[str, str]:
    """Versions of Keras, TensorFlow (also as tensorflow-cpu) and LiteRT."""
    distributions = {"keras": "keras", "tensorflow": "tensorflow", "litert": "ai-edge-litert"}
    versions = {}
    for name, distribution in distributions.items():
        try:
            versions[name] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = importlib.metadata.version(f"{distribution}-cpu")
    return versions


def check_precision(precision: str, request: BackboneRequest) -> None:
    """Raise JobError for an unknown precision, or for one that the weights do not allow."""
    if precision not in PRECISIONS:
        raise JobError(f"unknown precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "int8" and request.seed is not None and request.backbone == "mobilenet_v2":
        # Features of random weights are about 1e-10; the converter's smallest range is 1e-6.
        raise JobError(f"int8 needs trained weights; with {request.weights} all features would be zero")
