"""Step 2: an exact PCA of all features, in one pass for the moments and one for the projection.

Workers read the columns they need directly from the shards; each sends one scatter matrix for a group of
shards through Spark, and the matrices are merged as a tree. The groups and the order of merging depend
only on the features, so the model is the same to the last bit on any number of workers.

Arrays pass between NumPy and Arrow by DLPack and by buffers. pyarrow's own conversions (its flatten as
well) import pyarrow.compute, or pandas where it is installed, which takes each worker longer than to
compute several shards.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from image_features import pca, versions
from image_features.contract import (
    EMBEDDER,
    EMBEDDINGS_SCHEMA,
    MARKER,
    MODEL_JSON,
    PCA_MODEL,
    SUMMARY,
    BackboneSpec,
    EmbeddingsShard,
    FeaturesMarker,
    FeaturesShard,
    PcaMarker,
    PcaSummary,
    digest_of,
    shard_key,
)
from image_features.documents import own_document, read_document, to_json, withdraw, withdrawing
from image_features.errors import Damaged, JobError, NotFound, Stage
from image_features.features import read_ahead
from image_features.shards import delete_strays, info_of, list_array, read_shard, write_shard
from image_features.storage import Storage, normalise_uri

# Groups of shards in the first pass: as many as have so many rows each, but at least so many groups.
# Sending a group's scatter matrix costs about as much as computing 3,000 rows.
_MIN_GROUPS = 4
_GROUP_ROWS = 25_000

# Scatter matrices that are merged in one place: 105 MB at 1,280 features.
_FAN_IN = 8

_READERS = 8  # threads of the driver that read the embeddings of an earlier attempt


@dataclass(frozen=True)
class ReductionJob:
    """What every task of the step needs to know."""

    features: str  # URI
    output: str  # URI
    width: int


@dataclass(frozen=True)
class Refused:
    """A shard that cannot be used; a worker returns it to the driver in place of a result."""

    error: str
    damaged: bool = False  # or missing: extracting it again repairs it

    @classmethod
    def of(cls, error: JobError) -> Refused:
        return cls(str(error), isinstance(error, Damaged | NotFound))


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
    computed the features, embed.tflite is written as well. Raises JobError when the features are
    unfinished, damaged, too few, or of another backbone; no marker is then written.
    """
    started = time.monotonic()
    job_features, job_output = normalise_uri(features), normalise_uri(output)
    if job_features == job_output:
        raise JobError(f"features and output are the same prefix: {job_output}")
    with withdrawing({Stage.FEATURES: Storage(job_features)}):
        source = read_document(FeaturesMarker, Storage(job_features))
    request = f"components={components}" if components is not None else f"variance={variance}"
    pca.check_request(source.features, source.width, components, variance)
    if model:
        _check_backbone(model, source, job_features)
    storage = Storage(job_output, create=True)
    keys = {obj.key for obj in storage.list()}
    marker = own_document(PcaMarker, storage) if MARKER in keys else None
    if (
        marker
        and (marker.features_digest, marker.request) == (source.digest, request)
        and _embedder_is_intact(storage, marker, EMBEDDER in keys, wanted=bool(model))
        and (fitted := _intact_model(storage, marker, source))
        and _shards_are_intact(storage, marker)
        and marker
        == _marker_of(marker.shards, source, fitted, request, marker.seconds, marker.embedder_digest)
    ):
        delete_strays(storage, keys, {shard.shard for shard in marker.shards})
        _mend_summary(storage, _summary(source, marker, fitted, versions.of_spark(spark)))
        return marker
    # The marker first: there must never be one beside the embedder of another PCA.
    storage.delete([MARKER, EMBEDDER])

    job = ReductionJob(job_features, job_output, source.width)
    context = spark.sparkContext
    shards = [shard for shard in source.shards if shard.features]
    groups = _groups(shards, source.features)
    moments = merged(
        context.parallelize(list(enumerate(groups)), len(groups)).mapPartitions(
            lambda part: ((at, moments_of(group, job)) for at, group in part)
        ),
        len(groups),
    )
    if isinstance(moments, Refused):
        raise _error_of(moments, job)
    fitted = pca.fit(moments, components, variance)

    broadcast = context.broadcast(fitted)
    # Two partitions for each core balance the load; a task for each shard would start longer than it runs.
    partitions = min(len(source.shards), 2 * context.defaultParallelism)
    outcomes = (
        context.parallelize(source.shards, partitions)
        .mapPartitions(lambda part: project(part, job, broadcast.value))
        .collect()
    )
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            raise _error_of(outcome, job)
    written = sorted(outcomes, key=lambda shard: shard.shard)
    delete_strays(storage, keys, {shard.shard for shard in written})
    embedder = _fuse(model, fitted) if model else None
    seconds = round(time.monotonic() - started, 3)
    embedder_digest = hashlib.sha256(embedder).hexdigest() if embedder else None
    marker = _marker_of(written, source, fitted, request, seconds, embedder_digest)
    storage.put(PCA_MODEL, fitted.to_npz())
    if embedder:
        storage.put(EMBEDDER, embedder)
    storage.put(SUMMARY, to_json(_summary(source, marker, fitted, versions.of_spark(spark))))
    storage.put(MARKER, to_json(marker))
    return marker


def _marker_of(
    shards: list[EmbeddingsShard],
    source: FeaturesMarker,
    fitted: pca.PcaModel,
    request: str,
    seconds: float,
    embedder_digest: str | None,
) -> PcaMarker:
    return PcaMarker(
        images=sum(shard.rows for shard in shards),
        width=source.width,
        components=len(fitted.components),
        variance_kept=fitted.variance_kept,
        features_digest=source.digest,
        request=request,
        shards=shards,
        seconds=seconds,
        embedder_digest=embedder_digest,
    )


def _mend_summary(storage: Storage, expected: PcaSummary) -> None:
    """Write the summary of a finished PCA again where it is lost, damaged or of another attempt."""
    summary = own_document(PcaSummary, storage, SUMMARY)
    if summary is None or summary != replace(expected, seconds=summary.seconds, versions=summary.versions):
        storage.put(SUMMARY, to_json(expected))


def _error_of(refused: Refused, job: ReductionJob) -> JobError:
    """The error to raise. Damaged features must not look finished any longer: only step 1 can repair them."""
    return JobError(refused.error + (withdraw(Storage(job.features)) if refused.damaged else ""))


def _check_backbone(model: str, source: FeaturesMarker, features: str) -> None:
    storage = Storage(model)
    digest = read_document(BackboneSpec, storage, MODEL_JSON).digest
    if digest != source.model_digest:
        raise JobError(
            f"{storage.uri} is the backbone {digest}, but {features} was made with {source.model_digest}; "
            "give the one that the features were extracted with"
        )


def _fuse(model: str, fitted: pca.PcaModel) -> bytes:
    # Imported here, because workers import this module and need no LiteRT.
    from image_features.embedder import fuse
    from image_features.inference import read_backbone

    spec, backbone = read_backbone(model)
    return fuse(backbone, spec, fitted)


def _embedder_is_intact(storage: Storage, marker: PcaMarker, exists: bool, wanted: bool) -> bool:
    """Whether embed.tflite is the one that the marker names, and exists if it is wanted."""
    if marker.embedder_digest is None or not exists:
        return marker.embedder_digest is None and not exists and not wanted
    return hashlib.sha256(storage.get(EMBEDDER)).hexdigest() == marker.embedder_digest


def _intact_model(storage: Storage, marker: PcaMarker, source: FeaturesMarker) -> pca.PcaModel | None:
    """The model if it can be read, and is the one whose digest is in the embeddings' fingerprints."""
    try:
        model = pca.PcaModel.from_npz(storage.get(PCA_MODEL).to_pybytes(), storage.uri_of(PCA_MODEL))
    except (Damaged, NotFound):
        return None
    features = {shard.shard: shard.fingerprint for shard in source.shards}
    is_intact = all(
        shard.fingerprint == digest_of(features.get(shard.shard, ""), model.digest) for shard in marker.shards
    )
    return model if is_intact else None


def _shards_are_intact(storage: Storage, marker: PcaMarker) -> bool:
    """Whether the shards of a finished PCA can be read, and are those that the marker lists."""

    def is_intact(shard: EmbeddingsShard) -> bool:
        try:
            table = read_shard(storage, shard_key(shard.shard), EMBEDDINGS_SCHEMA)
        except (Damaged, NotFound):
            return False
        return table.num_rows == shard.rows and info_of(table, EmbeddingsShard) == shard

    with ThreadPoolExecutor(_READERS) as readers:
        return all(readers.map(is_intact, marker.shards))


def _groups(shards: list[FeaturesShard], rows: int) -> list[list[FeaturesShard]]:
    """Cut shards with ``rows`` rows in all into runs of about equal length, by their number alone."""
    count = max(1, min(len(shards), max(_MIN_GROUPS, -(-rows // _GROUP_ROWS))))
    cuts = [at * len(shards) // count for at in range(count + 1)]
    return [shards[start:end] for start, end in itertools.pairwise(cuts)]


def moments_of(shards: Iterable[FeaturesShard], job: ReductionJob) -> pca.Moments | Refused:
    """First pass, in a worker: the moments of a group of shards."""
    storage = Storage(job.features)
    try:
        return pca.Moments.merged(
            pca.Moments.of(read.result()[1]) for _, read in read_ahead(storage, shards, job.width)
        )
    except JobError as error:
        return Refused.of(error)


def merged(parts: Any, count: int) -> pca.Moments | Refused:
    """Merge an RDD of ``count`` pairs (place, moments or refusal), in order of their places.

    They are merged as a tree, so that neither a worker nor the driver holds more than _FAN_IN of them at a
    time. Spark's own treeReduce merges in the order in which the parts arrive.
    """
    while count > _FAN_IN:
        count = -(-count // _FAN_IN)
        parts = (
            parts.map(lambda part: (part[0] // _FAN_IN, part))
            .groupByKey(count)
            .map(lambda branch: (branch[0], in_order(branch[1])))
        )
    return in_order(parts.collect())


def in_order(parts: Iterable[tuple[int, pca.Moments | Refused]]) -> pca.Moments | Refused:
    """Merge (place, moments) pairs by place; if there are refusals, return the first one."""
    results = [result for _, result in sorted(parts, key=lambda part: part[0])]
    refusals = [result for result in results if isinstance(result, Refused)]
    if refusals:
        return refusals[0]
    return pca.Moments.merged(result for result in results if isinstance(result, pca.Moments))


def project(
    shards: Iterator[FeaturesShard], job: ReductionJob, model: pca.PcaModel
) -> Iterator[EmbeddingsShard | Refused]:
    """Second pass, in a worker: write the embeddings of each shard."""
    source, target = Storage(job.features), Storage(job.output)
    for shard, read in read_ahead(source, shards, job.width, ("image", "label")):
        try:
            table, features = read.result()
            embedding = model.transform(features)
            info = EmbeddingsShard(shard.shard, len(embedding), digest_of(shard.fingerprint, model.digest))
            columns = {
                "image": table.column("image"),
                "label": table.column("label"),
                "embedding": list_array(embedding),
            }
            write_shard(target, EMBEDDINGS_SCHEMA, columns, info)
            yield info
        except JobError as error:
            yield Refused.of(error)


def _summary(
    source: FeaturesMarker, marker: PcaMarker, model: pca.PcaModel, spark_versions: Mapping[str, str]
) -> PcaSummary:
    return PcaSummary(
        images=source.images,
        features=source.features,
        rejects=source.rejects,
        rejects_by_reason=source.rejects_by_reason,
        backbone=source.backbone,
        weights=source.weights,
        model_digest=source.model_digest,
        features_digest=source.digest,
        pca_digest=model.digest,
        embedder_digest=marker.embedder_digest,
        width=marker.width,
        request=marker.request,
        components=marker.components,
        variance_kept=marker.variance_kept,
        explained_variance=model.explained_variance.tolist(),
        explained_variance_ratio=model.explained_variance_ratio.tolist(),
        seconds={"extraction": source.seconds, "pca": marker.seconds},
        versions={**versions.installed(), **spark_versions},
    )
