"""Quantises a backbone to int8: calibrated on images of the run's sample, and measured against float32.

This is TensorFlow's full-integer quantisation. Weights are int8 with a scale for each channel,
activations int8 with a scale for each tensor; input and output stay float32, so the model runs like a
float32 one. The ranges of the activations come from calibration images. The first operators stay
float32 (``KerasBackbone.float_operators``): the channels of MobileNetV2's first depthwise convolution
have very different ranges but share one scale, which causes nearly all of the error. With ImageNet
weights and photos of fruit, this raises the mean cosine of int8 to float32 features from 0.960 to
0.987, and reduces the speed from 2.5 to 2.2 times that of float32.

The quality depends on weights and images. So it is measured on other images of the sample, and a run
whose features would differ too much from float32 is refused.
"""

from __future__ import annotations

import hashlib
import heapq
import logging
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fruit_pipeline.model.backbones import BACKBONES, DEFAULT_MIN_COSINE, MIN_IMAGES, BackboneRequest
from fruit_pipeline.model.export import converter, export, find_cached
from fruit_pipeline.sample.manifest import Manifest
from image_features.contract import (
    MODEL_FILE,
    MODEL_JSON,
    BackboneSpec,
    SampleMarker,
    content_digest,
    digest_of,
)
from image_features.documents import read_document, to_json, withdrawing
from image_features.errors import JobError, Stage
from image_features.images import DEFAULT_MAX_PIXELS, Preprocessor, RejectedImage, decode_rgb
from image_features.inference import Backbone
from image_features.sample_reader import SampleReader
from image_features.storage import Storage

log = logging.getLogger(__name__)

SCHEME = "1"
"""Part of the cache key. Raise it when the same images would give another int8 model or other figures."""

_CALIBRATED, _COMPARED = 200, 400  # images
_SPARE = 200  # further images, in place of those that do not decode
_BYTES = 2_000_000_000  # of image files: of a larger sample only the shards up to this size are read
_COMPONENTS = 50

Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How int8 features compare with float32 features, on images that were not used for calibration."""

    images_calibrated: int
    images_compared: int
    mean_cosine: float  # of an image's int8 and float32 features
    least_cosine: float
    neighbour_accuracy_float32: float  # share of images whose nearest other image has their label
    neighbour_accuracy: float  # the same with int8 features
    neighbour_agreement: float  # share of images whose nearest image has one label with both
    components: int  # of the PCA that keeps the variances below
    variance_kept_float32: float
    variance_kept: float  # the same with int8 features

    def __str__(self) -> str:
        return (
            f"cosine to float32 {self.mean_cosine:.4f} on average and {self.least_cosine:.4f} at least, "
            f"nearest neighbour of the same label {self.neighbour_accuracy:.2%} "
            f"(float32 {self.neighbour_accuracy_float32:.2%}), one label for both "
            f"{self.neighbour_agreement:.2%}, variance kept in {self.components} components "
            f"{self.variance_kept:.2%} (float32 {self.variance_kept_float32:.2%}), "
            f"{self.images_compared} images"
        )


def quantise(
    request: BackboneRequest,
    sample: Storage,
    cache_dir: Path,
    min_cosine: float = DEFAULT_MIN_COSINE,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    source: Storage | None = None,
) -> tuple[BackboneSpec, Storage]:
    """Return the int8 backbone for this sample and its folder in the cache; make it where the cache has none.

    ``source`` reads the images of a sample that is not packed, see SampleReader. Raises JobError when
    too few images of the sample decode, or when the mean cosine of int8 to float32 features is below
    ``min_cosine``.
    """
    # Damage of the sample withdraws it, because only drawing it again can repair it.
    with withdrawing({Stage.SAMPLE: sample}):
        marker = read_document(SampleMarker, sample)
        drawn = select_rows(sample, marker)
    images = content_digest(*([row[name] for row in drawn] for name in ("image", "label", "sha256")))
    key = digest_of("int8", SCHEME, request.cache_key(), images, str(max_pixels))
    cached = Storage(str(cache_dir / "models" / key), create=True)
    spec = find_cached(cached)
    if spec is None:
        float32_spec, float32_folder = export(request, cache_dir)
        reader = SampleReader(sample, marker, source)
        with withdrawing({Stage.SAMPLE: sample}):
            pixels, labels = read_pixels(reader, marker, drawn, request.input_size, max_pixels)
        if len(pixels) < MIN_IMAGES:
            raise JobError(
                f"int8 is calibrated on images of the sample and needs {MIN_IMAGES} that decode; of "
                f"{len(drawn)} drawn {len(pixels)} do. Draw more images, or use precision float32"
            )
        spec, model = _quantise(
            request, float32_spec, float32_folder.get(MODEL_FILE).to_pybytes(), pixels, labels
        )
        cached.put(MODEL_FILE, model)
        cached.put(MODEL_JSON, to_json(spec))  # last: its presence says that the pair is complete
    quality = Quality(**spec.quality)  # type: ignore[arg-type]
    log.info("int8 %s: %s", spec.backbone, quality)
    if not quality.mean_cosine >= min_cosine:
        raise JobError(
            f"int8 is too coarse for this backbone and sample: the mean cosine is below {min_cosine} "
            f"({quality}). Use precision float32, or a lower min_cosine"
        )
    return spec, cached


def select_rows(sample: Storage, marker: SampleMarker) -> list[dict[str, Any]]:
    """Rows of the manifest for calibration and comparison, in an order that depends on the sample's seed."""

    def rank(item: object) -> bytes:
        return hashlib.sha256(f"int8\0{marker.seed}\0{item}".encode()).digest()

    shards: set[int] = set()
    size = 0
    for shard in sorted(marker.shards, key=lambda shard: rank(shard.shard)):
        if size < _BYTES:
            shards.add(shard.shard)
            size += shard.bytes
    manifest = Manifest(sample, marker.manifest_digest)

    def rows() -> Iterator[dict[str, Any]]:
        for shard in marker.shards:
            for image, label, sha256 in manifest.take(shard.shard):
                if shard.shard in shards:
                    # A sample that is not packed has no digests of its images: take that of the shard.
                    row = {"image": image, "label": label, "shard": shard.shard}
                    yield {**row, "sha256": sha256 or shard.digest}

    return heapq.nsmallest(_CALIBRATED + _COMPARED + _SPARE, rows(), key=lambda row: rank(row["image"]))


def read_pixels(
    reader: SampleReader, marker: SampleMarker, drawn: list[dict[str, Any]], size: int, max_pixels: int
) -> tuple[Images, list[str]]:
    """Pixels (n, size, size, 3) and labels of the drawn images that decode, in the drawn order."""
    order = {row["image"]: position for position, row in enumerate(drawn)}
    numbers = {row["shard"] for row in drawn}
    decoded: dict[int, tuple[Images, str]] = {}
    for shard in marker.shards:
        if shard.shard not in numbers:
            continue
        part = reader.read(shard, order)
        for image, label, content in zip(part.images, part.labels, part.contents, strict=True):
            with suppress(RejectedImage):  # the extraction reports the reason
                decoded[order[image]] = decode_rgb(content, size, max_pixels), label
    chosen = [decoded[position] for position in sorted(decoded)[: _CALIBRATED + _COMPARED]]
    stacked = np.stack([pixels for pixels, _ in chosen]) if chosen else np.empty((0, size, size, 3), np.uint8)
    return stacked, [label for _, label in chosen]


def _quantise(
    request: BackboneRequest,
    float32_spec: BackboneSpec,
    float32_model: bytes,
    pixels: Images,
    labels: list[str],
) -> tuple[BackboneSpec, bytes]:
    """Calibrate on the first images, measure the quality on the others."""
    cut = min(_CALIBRATED, len(pixels) // 2)
    log.info("quantising %s to int8, calibrated on %d images", request.backbone, cut)
    model = convert_to_int8(request, float32_model, pixels[:cut])
    spec = replace(float32_spec, precision="int8", digest=hashlib.sha256(model).hexdigest())
    compared = pixels[cut:]
    float32, int8 = (
        Backbone(content, described).features_of(compared, len(compared))
        for content, described in ((float32_model, float32_spec), (model, spec))
    )
    quality = measure_quality(float32, int8, labels[cut:], images_calibrated=cut)
    return replace(spec, quality=asdict(quality)), model


def convert_to_int8(request: BackboneRequest, float32_model: bytes, calibration: Images) -> bytes:
    """The backbone in int8 except for its first operators; ``float32_model`` is the float32 one."""
    known = BACKBONES[request.backbone]
    preprocess = Preprocessor(known.preprocessing)

    def representative() -> Iterator[list[Features]]:
        for rgb in calibration:
            one = np.empty((1, *rgb.shape), np.float32)
            preprocess.fill(rgb, one[0])
            yield [one]

    with converter(request) as (_, to_litert), warnings.catch_warnings():
        import tensorflow as tf

        # The debugger uses tf.lite.Interpreter, which TensorFlow has deprecated.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        to_litert.optimizations = [tf.lite.Optimize.DEFAULT]
        to_litert.representative_dataset = representative
        # TensorFlow excludes operators, named by their outputs, only through the debugger.
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=first_output_names(float32_model, known.float_operators)
        )
        quantised: bytes = tf.lite.experimental.QuantizationDebugger(
            converter=to_litert, debug_dataset=representative, debug_options=options
        ).get_nondebug_quantized_model()
    return quantised


def first_output_names(model: bytes, count: int) -> list[str]:
    """Names of the tensors that the first operators of a LiteRT model write."""
    from ai_edge_litert import schema_py_generated as schema

    graph: Any = schema.Model.GetRootAs(model).Subgraphs(0)
    return [graph.Tensors(graph.Operators(n).Outputs(0)).Name().decode() for n in range(count)]


def measure_quality(float32: Features, int8: Features, labels: list[str], images_calibrated: int) -> Quality:
    """Compare the features of both precisions, each (images, width), row by row."""
    norms = np.linalg.norm(float32, axis=1) * np.linalg.norm(int8, axis=1)
    cosines = (float32 * int8).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    names = np.array(labels)
    nearest_float32, nearest_int8 = names[_nearest(float32)], names[_nearest(int8)]
    components = min(_COMPONENTS, len(float32) - 1)
    return Quality(
        images_calibrated=images_calibrated,
        images_compared=len(float32),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        neighbour_accuracy_float32=float((nearest_float32 == names).mean()),
        neighbour_accuracy=float((nearest_int8 == names).mean()),
        neighbour_agreement=float((nearest_float32 == nearest_int8).mean()),
        components=components,
        variance_kept_float32=_variance_kept(float32, components),
        variance_kept=_variance_kept(int8, components),
    )


def _nearest(features: Features) -> npt.NDArray[np.intp]:
    """Index of the nearest other row (Euclidean) of each row."""
    wide = features.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * wide @ wide.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1)


def _variance_kept(features: Features, components: int) -> float:
    """Share of the variance in the first principal components; 1 where there is no variance."""
    wide = features.astype(np.float64)
    variances = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    total = float(variances.sum())
    return float(variances[:components].sum()) / total if total else 1.0
