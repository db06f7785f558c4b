"""An int8 backbone: calibrated on images of the run's own sample, and measured against float32.

TensorFlow's full-integer quantisation: weights and activations are int8, one scale a channel and
one a tensor, while input and output stay float32, so whoever runs the model need not know. The
ranges of the activations come from calibration images. The first operators stay in float32
(``KerasBackbone.float_operators``): MobileNetV2's first depthwise convolution has channels of very
different ranges, which share one scale, and nearly all of the error comes from there. With
ImageNet weights and photos of fruit, features then have a mean cosine of 0.987 to those of float32
in place of 0.960, at 2.2 in place of 2.5 times the speed.

How good it is depends on weights and images, so it is measured on other images of the sample, and
a run whose features would differ by too much is refused.
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
from fruit_pipeline.model.export import converter, export
from fruit_pipeline.sample.manifest import Manifest
from image_features.contract import (
    MODEL_FILE,
    MODEL_JSON,
    BackboneSpec,
    SampleMarker,
    content_digest,
    digest_of,
)
from image_features.documents import find_document, read_document, to_json
from image_features.errors import JobError
from image_features.images import DEFAULT_MAX_PIXELS, Preprocessor, RejectedImage, decode_rgb
from image_features.sample_reader import SampleReader
from image_features.storage import Storage

log = logging.getLogger(__name__)

SCHEME = "1"
"""Raised whenever the same images would give another int8 model or other figures of it."""

_CALIBRATED, _COMPARED = 200, 400
_SPARE = 200  # drawn as well, for those that do not decode
_BYTES = 2_000_000_000  # of a larger sample, as many shards as reach this are read
_COMPONENTS = 50

Images = npt.NDArray[np.uint8]
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Quality:
    """How int8 features compare with float32 features, on images that were not calibrated with."""

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
    """Return the int8 backbone for this sample from the cache, making it first when it is not there.

    ``source`` reads the images of a sample that is not packed, see samples.SampleReader.
    Raises JobError when the sample has too few images that decode, or when the features' mean
    cosine to those of float32 is below ``min_cosine``.
    """
    marker = read_document(SampleMarker, sample)
    drawn = select_rows(sample, marker)
    images = content_digest(*([row[name] for row in drawn] for name in ("image", "label", "sha256")))
    key = digest_of("int8", SCHEME, request.cache_key(), images, str(max_pixels))
    cached = Storage(str(cache_dir / "models" / key), create=True)
    spec = find_document(BackboneSpec, cached, MODEL_JSON)
    if spec is None:
        exact, exact_cached = export(request, cache_dir)
        reader = SampleReader(sample, marker, source)
        pixels, labels = read_pixels(reader, marker, drawn, request.input_size, max_pixels)
        if len(pixels) < MIN_IMAGES:
            raise JobError(
                f"int8 is calibrated on images of the sample and needs {MIN_IMAGES} that decode; of "
                f"{len(drawn)} drawn {len(pixels)} do. Draw more images, or take precision float32"
            )
        spec, model = _quantise(request, exact, exact_cached.get(MODEL_FILE).to_pybytes(), pixels, labels)
        cached.put(MODEL_FILE, model)
        cached.put(MODEL_JSON, to_json(spec))  # last: it makes the pair a whole one
    quality = Quality(**spec.quality)  # type: ignore[arg-type]
    log.info("int8 %s: %s", spec.backbone, quality)
    if not quality.mean_cosine >= min_cosine:
        raise JobError(
            f"int8 is too coarse for this backbone and sample: the mean cosine is below {min_cosine} "
            f"({quality}). Take precision float32, or a lower min_cosine"
        )
    return spec, cached


def select_rows(sample: Storage, marker: SampleMarker) -> list[dict[str, Any]]:
    """Rows of the manifest: the images to look at, in the order that the sample's seed gives them."""

    def rank(what: object) -> bytes:
        return hashlib.sha256(f"int8\0{marker.seed}\0{what}".encode()).digest()

    shards: set[int] = set()
    size = 0
    for shard in sorted(marker.shards, key=lambda shard: rank(shard.shard)):
        if size < _BYTES:
            shards.add(shard.shard)
            size += shard.bytes
    manifest = Manifest(sample)

    def rows() -> Iterator[dict[str, Any]]:
        for shard in marker.shards:
            for image, label, sha256 in manifest.take(shard.shard):
                if shard.shard in shards:
                    # Where nobody has read the images yet, their shard's digest stands for them.
                    row = {"image": image, "label": label, "shard": shard.shard}
                    yield {**row, "sha256": sha256 or shard.digest}

    return heapq.nsmallest(_CALIBRATED + _COMPARED + _SPARE, rows(), key=lambda row: rank(row["image"]))


def read_pixels(
    reader: SampleReader, marker: SampleMarker, drawn: list[dict[str, Any]], size: int, max_pixels: int
) -> tuple[Images, list[str]]:
    """Pixels (n, size, size, 3) and labels of the drawn images that decode, in the drawn order."""
    order = {row["image"]: position for position, row in enumerate(drawn)}
    wanted = {row["shard"] for row in drawn}
    found: dict[int, tuple[Images, str]] = {}
    for shard in marker.shards:
        if shard.shard not in wanted:
            continue
        part = reader.read(shard, order)
        for image, label, content in zip(part.images, part.labels, part.contents, strict=True):
            with suppress(RejectedImage):  # the extraction will say why
                found[order[image]] = decode_rgb(content, size, max_pixels), label
    kept = [found[position] for position in sorted(found)[: _CALIBRATED + _COMPARED]]
    stacked = np.stack([pixels for pixels, _ in kept]) if kept else np.empty((0, size, size, 3), np.uint8)
    return stacked, [label for _, label in kept]


def _quantise(
    request: BackboneRequest, exact: BackboneSpec, exact_model: bytes, pixels: Images, labels: list[str]
) -> tuple[BackboneSpec, bytes]:
    """Quantise on the first images, measure on the others."""
    from image_features.inference import Backbone

    cut = min(_CALIBRATED, len(pixels) // 2)
    log.info("quantising %s to int8, calibrated on %d images", request.backbone, cut)
    model = convert_to_int8(request, exact_model, pixels[:cut])
    spec = replace(exact, precision="int8", digest=hashlib.sha256(model).hexdigest())
    held = pixels[cut:]
    with_float32, with_int8 = (
        Backbone(content, described).features_of(held, len(held))
        for content, described in ((exact_model, exact), (model, spec))
    )
    quality = measure_quality(with_float32, with_int8, labels[cut:], images_calibrated=cut)
    return replace(spec, quality=asdict(quality)), model


def convert_to_int8(request: BackboneRequest, exact_model: bytes, calibration: Images) -> bytes:
    """The backbone in int8, but for its first operators; ``exact_model`` is the same in float32."""
    known = BACKBONES[request.backbone]
    preprocess = Preprocessor(known.preprocessing)

    def representative() -> Iterator[list[Features]]:
        for rgb in calibration:
            one = np.empty((1, *rgb.shape), np.float32)
            preprocess.fill(rgb, one[0])
            yield [one]

    with converter(request) as (_, to_litert), warnings.catch_warnings():
        import tensorflow as tf

        # The debugger opens an interpreter of tf.lite, which TensorFlow has deprecated.
        warnings.filterwarnings("ignore", ".*tf.lite.Interpreter is deprecated", UserWarning)
        to_litert.optimizations = [tf.lite.Optimize.DEFAULT]
        to_litert.representative_dataset = representative
        # The debugger is TensorFlow's way to say which operators are left alone, by their outputs.
        options = tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=first_output_names(exact_model, known.float_operators)
        )
        made: bytes = tf.lite.experimental.QuantizationDebugger(
            converter=to_litert, debug_dataset=representative, debug_options=options
        ).get_nondebug_quantized_model()
    return made


def first_output_names(model: bytes, count: int) -> list[str]:
    """Names of the tensors that the first operators of a LiteRT model write."""
    from ai_edge_litert import schema_py_generated as schema

    graph: Any = schema.Model.GetRootAs(model).Subgraphs(0)
    return [graph.Tensors(graph.Operators(n).Outputs(0)).Name().decode() for n in range(count)]


def measure_quality(exact: Features, found: Features, labels: list[str], images_calibrated: int) -> Quality:
    """Compare int8 features ``found`` with float32 features ``exact``, both (images, width)."""
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosines = (exact * found).sum(axis=1) / np.maximum(norms, np.finfo(np.float32).tiny)
    names = np.array(labels)
    nearest_exact, nearest_found = names[_nearest(exact)], names[_nearest(found)]
    components = min(_COMPONENTS, len(exact) - 1)
    return Quality(
        images_calibrated=images_calibrated,
        images_compared=len(exact),
        mean_cosine=float(cosines.mean()),
        least_cosine=float(cosines.min()),
        neighbour_accuracy_float32=float((nearest_exact == names).mean()),
        neighbour_accuracy=float((nearest_found == names).mean()),
        neighbour_agreement=float((nearest_exact == nearest_found).mean()),
        components=components,
        variance_kept_float32=_variance_kept(exact, components),
        variance_kept=_variance_kept(found, components),
    )


def _nearest(features: Features) -> npt.NDArray[np.intp]:
    """Index of the nearest other row (Euclidean) of each row."""
    wide = features.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * wide @ wide.T
    np.fill_diagonal(distances, np.inf)
    return distances.argmin(axis=1)


def _variance_kept(features: Features, components: int) -> float:
    """Share of the variance in the first principal components, 1 when there is none at all."""
    wide = features.astype(np.float64)
    variances = np.linalg.svd(wide - wide.mean(axis=0), compute_uv=False) ** 2
    total = float(variances.sum())
    return float(variances[:components].sum()) / total if total else 1.0
