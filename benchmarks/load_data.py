"""Many tiny images, all valid and all different, and random features for them."""

from __future__ import annotations

import io
import shutil
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from fruit_pipeline.sample.manifest import COLUMNS, Manifest
from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    BackboneSpec,
    FeaturesMarker,
    FeaturesShard,
    RunLayout,
    SampleMarker,
)
from image_features.documents import read_document, to_json
from image_features.extract_worker import ExtractionJob
from image_features.images import preprocessing_of
from image_features.shards import list_array, write_shard
from image_features.storage import Storage

PIXELS = 32
PICTURES = 200
"""Different pictures. A comment in each file makes its bytes, and so its SHA-256, unique."""

_RANK = 80


def draw(folder: Path, images: int, labels: int) -> None:
    """Write ``images`` JPEG files of about 850 bytes into ``labels`` sub-folders, unless they exist."""
    marker = folder.with_name(f"{folder.name}.whole")
    if marker.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    pictures = [_picture(seed) for seed in range(PICTURES)]
    for label in range(labels):
        (folder / f"label {label:04d}").mkdir(parents=True)
    for number in range(images):
        path = folder / f"label {number % labels:04d}" / f"{number // labels:06d}.jpg"
        path.write_bytes(commented(pictures[number % PICTURES], f"image {number}"))
    marker.touch()


def commented(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment segment (COM, ITU-T T.81 B.2.4.5) after the start of the image."""
    comment = text.encode()
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[2:]


def _picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((PIXELS, PIXELS), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=80)
    return sink.getvalue()


def draw_features(run: str, spec: BackboneSpec) -> FeaturesMarker:
    """Write a finished features prefix for a run's sample, with random features of rank 80 plus noise.

    Names, labels, digests and fingerprints are those that the extraction with ``spec`` would write.
    """
    layout = RunLayout(run)
    sample, features = Storage(layout.sample), Storage(layout.features)
    plan = read_document(SampleMarker, sample)
    job = ExtractionJob(layout.sample, plan, layout.features, layout.rejects, spec, b"")
    manifest = Manifest(sample)
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((_RANK, spec.width), np.float32)
    basis *= (0.95 ** np.arange(_RANK, dtype=np.float32))[:, None]
    shards = []
    for shard in plan.shards:
        rows = manifest.take(shard.shard)
        values = rng.standard_normal((len(rows), _RANK), np.float32) @ basis
        values += 0.1 * rng.standard_normal(values.shape, np.float32)
        info = FeaturesShard(shard.shard, len(rows), len(rows), {}, job.fingerprint(shard))
        columns = dict(zip(COLUMNS, (list(values) for values in zip(*rows, strict=True)), strict=True))
        write_shard(features, FEATURES_SCHEMA, {**columns, "features": list_array(values)}, info)
        shards.append(info)
    marker = FeaturesMarker(
        images=plan.images,
        features=plan.images,
        rejects=0,
        rejects_by_reason={},
        width=spec.width,
        model_digest=spec.digest,
        backbone=spec.backbone,
        weights=spec.weights,
        preprocessing=preprocessing_of(spec, job.max_pixels),
        shards=shards,
        computed_shards=len(shards),
        seconds=0.0,
        runtime=job.runtime,
    )
    features.put(MARKER, to_json(marker))
    return marker
