"""Step 2: an exact PCA over all features: one pass for the moments, one to project.

Workers read the one column they need straight from the shards; what crosses Spark is one scatter
matrix a partition, merged as a tree.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features import pca
from image_features.contract import (
    EMBEDDER,
    EMBEDDINGS_SCHEMA,
    FEATURES_SCHEMA,
    MARKER,
    MODEL_JSON,
    PCA_MODEL,
    SCHEMA_VERSION,
    SUMMARY,
    BackboneSpec,
    EmbeddingsShard,
    FeaturesMarker,
    FeaturesShard,
    PcaMarker,
    digest_of,
    find_document,
    read_document,
    shard_key,
    to_json,
)
from image_features.errors import JobError
from image_features.shards import delete_strays, read_shard, shard_info, write_shard
from image_features.storage import Storage, normalise_uri


@dataclass(frozen=True)
class ReductionJob:
    """What every task of the step needs to know."""

    features: str
    output: str
    width: int


@dataclass(frozen=True)
class Refused:
    """A shard that cannot be used; travels to the driver in place of a result."""

    error: str


def run(
    spark: Any,
    features: str,
    output: str,
    components: int | None = None,
    variance: float | None = None,
    model: str | None = None,
) -> PcaMarker:
    """Reduce the features below ``features`` to embeddings below ``output``; both are URIs.

    Give ``components`` or ``variance`` (see pca.fit). With ``model``, the URI of the backbone that
    made the features, embed.tflite is written as well. Raises JobError when the features are not
    finished, damaged, too few, or of another backbone; nothing then looks finished.
    """
    started = time.monotonic()
    job_features, job_output = normalise_uri(features), normalise_uri(output)
    if job_features == job_output:
        raise JobError(f"features and output are the same prefix: {job_output}")
    source = read_document(FeaturesMarker, Storage(job_features))
    request = f"components={components}" if components is not None else f"variance={variance}"
    pca.check_request(source.features, source.width, components, variance)
    if model:
        _check_backbone(model, source, job_features)
    storage = Storage(job_output, create=True)
    standing = {obj.key: obj.size for obj in storage.list()}
    marker = find_document(PcaMarker, storage) if MARKER in standing else None
    if (
        marker
        and (marker.features_digest, marker.request) == (source.digest, request)
        and {PCA_MODEL, SUMMARY} <= standing.keys()
        and _embedder_stands(storage, marker, standing, wanted=bool(model))
        and all(_stands(storage, shard, standing) for shard in marker.shards)
    ):
        return marker
    # Marker first: an embedder of another PCA must never stand beside one.
    storage.delete([MARKER, EMBEDDER])

    job = ReductionJob(job_features, job_output, source.width)
    context = spark.sparkContext
    shards = [shard for shard in source.shards if shard.features]
    # Two partitions a core: enough to even out, and only that many scatter matrices to merge.
    partitions = max(1, min(len(shards), 2 * context.defaultParallelism))
    moments = (
        context.parallelize(shards, partitions)
        .mapPartitions(lambda part: moments_of(part, job))
        .treeReduce(merge, depth=2)
    )
    if isinstance(moments, Refused):
        raise JobError(moments.error)
    fitted = pca.fit(moments, components, variance)

    broadcast = context.broadcast(fitted)
    outcomes = (
        context.parallelize(source.shards, len(source.shards))
        .mapPartitions(lambda part: project(part, job, broadcast.value))
        .collect()
    )
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            raise JobError(outcome.error)
    written = sorted(outcomes, key=lambda shard: shard.shard)
    expected = {shard.shard for shard in written}
    delete_strays(storage, standing, expected)
    embedder = _fuse(model, fitted) if model else None
    marker = PcaMarker(
        images=sum(shard.rows for shard in written),
        width=source.width,
        components=len(fitted.components),
        variance_kept=fitted.variance_kept,
        features_digest=source.digest,
        request=request,
        shards=written,
        seconds=round(time.monotonic() - started, 3),
        embedder_digest=hashlib.sha256(embedder).hexdigest() if embedder else None,
    )
    storage.put(PCA_MODEL, fitted.to_npz())
    if embedder:
        storage.put(EMBEDDER, embedder)
    storage.put(SUMMARY, json.dumps(_summary(source, marker, fitted), indent=1).encode())
    storage.put(MARKER, to_json(marker))
    return marker


def _check_backbone(model: str, source: FeaturesMarker, features: str) -> None:
    storage = Storage(model)
    found = read_document(BackboneSpec, storage, MODEL_JSON).digest
    if found != source.model_digest:
        raise JobError(
            f"{storage.uri} is the backbone {found}, but {features} was made with {source.model_digest}; "
            "give the one that the features were extracted with"
        )


def _fuse(model: str, fitted: pca.PcaModel) -> bytes:
    # Here, not above: workers import this module and need no LiteRT.
    from image_features.embedder import fuse
    from image_features.inference import read_backbone

    spec, backbone = read_backbone(model)
    return fuse(backbone, spec, fitted)


def _embedder_stands(storage: Storage, marker: PcaMarker, sizes: dict[str, int], wanted: bool) -> bool:
    """Whether embed.tflite is what the marker says of it, and there when it is wanted."""
    if marker.embedder_digest is None or EMBEDDER not in sizes:
        return marker.embedder_digest is None and EMBEDDER not in sizes and not wanted
    return hashlib.sha256(storage.get(EMBEDDER)).hexdigest() == marker.embedder_digest


def _stands(storage: Storage, shard: EmbeddingsShard, sizes: dict[str, int]) -> bool:
    """Whether a shard of a finished PCA is still there, and the one that the marker lists."""
    key = shard_key(shard.shard)
    try:
        return (
            key in sizes and shard_info(storage.parquet_metadata(key, sizes[key]), EmbeddingsShard) == shard
        )
    except JobError:
        return False


def read_features(
    storage: Storage, shard: FeaturesShard, width: int, columns: tuple[str, ...] = ()
) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """Read a features shard: the named columns, and the features as float32 (rows, width).

    Raises JobError that names the object when it is not what the marker lists: other rows, another
    width, NaN or infinity.
    """
    key = shard_key(shard.shard)
    uri = storage.uri_of(key)
    table = read_shard(storage, key, FEATURES_SCHEMA, [*columns, "features"])
    if table.num_rows != shard.features:
        raise JobError(f"{uri} has {table.num_rows} rows, the marker says {shard.features}; extract it again")
    lists = table.column("features").combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    if (lengths != width).any():
        row = int(np.flatnonzero(lengths != width)[0])
        raise JobError(f"{uri}: row {row} has {lengths[row]} features, expected {width}")
    values = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise JobError(f"{uri}: row {int(np.flatnonzero(~finite)[0])} has NaN or infinity")
    return table, values


def moments_of(shards: Iterator[FeaturesShard], job: ReductionJob) -> Iterator[pca.Moments | Refused]:
    """First pass, in a worker: the moments of a partition's shards."""
    storage = Storage(job.features)
    try:
        yield pca.Moments.merged(
            pca.Moments.of(read_features(storage, shard, job.width)[1]) for shard in shards
        )
    except JobError as error:
        yield Refused(str(error))


def merge(left: pca.Moments | Refused, right: pca.Moments | Refused) -> pca.Moments | Refused:
    if isinstance(left, Refused):
        return left
    return right if isinstance(right, Refused) else left.merge(right)


def project(
    shards: Iterator[FeaturesShard], job: ReductionJob, model: pca.PcaModel
) -> Iterator[EmbeddingsShard | Refused]:
    """Second pass, in a worker: write the embeddings of each shard."""
    source, target = Storage(job.features), Storage(job.output)
    for shard in shards:
        try:
            table, features = read_features(source, shard, job.width, ("image", "label"))
            embedding = model.transform(features)
            info = EmbeddingsShard(shard.shard, len(embedding), digest_of(shard.fingerprint, model.digest))
            offsets = np.arange(len(embedding) + 1, dtype=np.int32) * embedding.shape[1]
            columns = {
                "image": table.column("image"),
                "label": table.column("label"),
                "embedding": pa.ListArray.from_arrays(offsets, embedding.ravel()),
            }
            write_shard(target, EMBEDDINGS_SCHEMA, columns, info)
            yield info
        except JobError as error:
            yield Refused(str(error))


def _summary(source: FeaturesMarker, marker: PcaMarker, model: pca.PcaModel) -> dict[str, Any]:
    packages = ("numpy", "pillow", "pyarrow", "obstore", "ai-edge-litert")
    return {
        "schema_version": SCHEMA_VERSION,
        "images": source.images,
        "features": source.features,
        "rejects": source.rejects,
        "rejects_by_reason": source.rejects_by_reason,
        "backbone": source.backbone,
        "weights": source.weights,
        "model_digest": source.model_digest,
        "features_digest": source.digest,
        "pca_digest": model.digest,
        "embedder_digest": marker.embedder_digest,
        "width": marker.width,
        "request": marker.request,
        "components": marker.components,
        "variance_kept": marker.variance_kept,
        "explained_variance": model.explained_variance.tolist(),
        "explained_variance_ratio": model.explained_variance_ratio.tolist(),
        "seconds": {"extraction": source.seconds, "pca": marker.seconds},
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in packages},
        },
    }
