"""The part of the extraction that runs in Spark's workers: from a sample shard to a features shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features import resume, reuse, versions
from image_features.contract import (
    FEATURES_SCHEMA,
    REJECTS_SCHEMA,
    REUSED_SCHEMA,
    SCHEMA_VERSION,
    BackboneSpec,
    Conversion,
    FeaturesShard,
    SampleMarker,
    SampleShard,
    digest_of,
    reused_key,
    shard_key,
)
from image_features.errors import Damaged, JobError, NotFound, ShortOfMemory
from image_features.images import DEFAULT_MAX_PIXELS, RejectedImage, preprocessing_of
from image_features.inference import Backbone, open_once
from image_features.resume import ShardTask, task_of
from image_features.sample_reader import SampleReader, ShardImages
from image_features.shards import list_array, parquet_bytes, write_shard
from image_features.storage import Storage


@dataclass(frozen=True)
class ExtractionJob:
    """What every task of the step needs to know; Spark sends it to each worker once."""

    sample: str  # URI
    marker: SampleMarker
    output: str  # URI
    rejects: str  # URI
    spec: BackboneSpec
    model: bytes
    max_pixels: int = DEFAULT_MAX_PIXELS
    earlier: reuse.EarlierRun | None = None
    runtime: str = field(default_factory=versions.deciding)  # the driver's: all nodes have the same

    def fingerprint(self, shard: SampleShard) -> str:
        """Digest of everything that decides a features shard's content."""
        preprocessing = preprocessing_of(self.spec, self.max_pixels)
        return digest_of(str(SCHEMA_VERSION), self.spec.digest, preprocessing, self.runtime, shard.digest)


@dataclass(frozen=True)
class Outcome:
    """What a worker returns to the driver for a shard: a few numbers, never image bytes or features."""

    done: FeaturesShard | None
    computed: bool = False
    error: str | None = None
    damaged: bool = False  # with an error: the sample's shard is not the one that its marker lists


@dataclass(frozen=True)
class Extracted:
    """A computed shard, ready to be written."""

    info: FeaturesShard
    features: dict[str, Any]  # columns of FEATURES_SCHEMA
    rejects: pa.Table
    reused: pa.Table


def run_tasks(parts: Iterator[list[ShardTask]], job: ExtractionJob) -> Iterator[Outcome]:
    """Run shard tasks in this worker process."""
    for tasks in parts:
        if _is_retry():
            # An earlier attempt of this task may have finished shards; they need not be computed again.
            features = {obj.key: obj.size for obj in Storage(job.output).list()}
            rejects = {obj.key for obj in Storage(job.rejects).list()}
            tasks = [task_of(task.shard, features, rejects) for task in tasks]
        missing = []
        for task in tasks:
            done = finished_shard(task, job)
            if done:
                yield Outcome(done)
            else:
                missing.append(task.shard)
        if missing:
            yield from _compute(missing, job)


def finished_shard(task: ShardTask, job: ExtractionJob) -> FeaturesShard | None:
    """The shard's counts if an earlier attempt finished it from the same inputs, and it is intact."""
    return resume.finished_shard(task, job.fingerprint(task.shard), job.spec.width, job.output, job.rejects)


def extract(shard: SampleShard, sample: ShardImages, job: ExtractionJob, backbone: Backbone) -> Extracted:
    """Compute one shard.

    Raises JobError when the backbone gives NaN or infinity, and ShortOfMemory that names the image.
    """
    images, labels, sha256 = sample.images, sample.labels, sample.sha256
    reused = job.earlier.find(sha256) if job.earlier else None
    reused_rows = reused.positions if reused else []
    to_compute = sorted(set(range(len(images))) - set(reused_rows))
    conversions: Counter[Conversion] = Counter()
    try:
        contents = [sample.contents[n] for n in to_compute]
        features, refused = backbone.features(contents, job.max_pixels, conversions)
    except ShortOfMemory as error:
        if error.position is None:
            raise
        image = images[to_compute[error.position]]
        # Without its cause: Spark reports the first error of a chain, which names no image.
        raise ShortOfMemory(f"shard {shard.shard}, image {image!r}: {error}") from None
    rejected = {to_compute[n]: reject for n, reject in refused.items()}
    accepted = [n for n in range(len(images)) if n not in rejected]
    if reused and reused.positions:
        features = _merged(accepted, [n for n in to_compute if n not in rejected], features, reused)
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise JobError(
            f"the backbone gives NaN or infinity for image {images[accepted[bad]]!r}; are these its weights?"
        )
    info = FeaturesShard(
        shard=shard.shard,
        images=len(images),
        features=len(accepted),
        rejects=dict(sorted(Counter(r.reason.value for r in rejected.values()).items())),
        fingerprint=job.fingerprint(shard),
        reused=len(reused_rows),
        conversions=dict(sorted((kind.value, count) for kind, count in conversions.items())),
    )

    def rows(numbers: list[int]) -> dict[str, Any]:
        columns = (("image", images), ("label", labels), ("sha256", sha256))
        return {name: [values[n] for n in numbers] for name, values in columns}

    return Extracted(
        info,
        rows(accepted) | {"features": list_array(features)},
        _rejects_table(rows(sorted(rejected)), rejected),
        pa.table(
            rows(reused_rows) | {"origin": reused.origins} if reused else REUSED_SCHEMA.empty_table(),
            schema=REUSED_SCHEMA,
        ),
    )


def write(extracted: Extracted, job: ExtractionJob) -> FeaturesShard:
    """Write a shard's rejects and its list of reused features; then its features, which make it finished."""
    info, output = extracted.info, Storage(job.output)
    if info.rejects:
        Storage(job.rejects).put(shard_key(info.shard), parquet_bytes(extracted.rejects))
    if info.reused:
        Storage(job.output, create=True).put(reused_key(info.shard), parquet_bytes(extracted.reused))
    write_shard(output, FEATURES_SCHEMA, extracted.features, info)
    return info


_threads: list[tuple[ThreadPoolExecutor, ThreadPoolExecutor]] = []


def reader_and_writer() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """The process's reader and writer of one thread each, started once and used by all its tasks.

    CPython's Thread.start waits forever for a thread that gets no memory for its first frame. A worker that
    runs out of memory must fail, so that Spark replaces it; therefore it must not start a thread by then.
    """
    if not _threads:
        pools = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        for pool in pools:
            pool.submit(int).result()  # a pool starts its thread with the first call
        _threads.append(pools)
    return _threads[0]


def _compute(shards: list[SampleShard], job: ExtractionJob) -> Iterator[Outcome]:
    """Compute shards one after another; meanwhile the next is read and the last is written."""
    backbone = open_once(job.model, job.spec)
    reader = SampleReader(Storage(job.sample), job.marker)
    reading, writing = reader_and_writer()
    following: Future[ShardImages] = reading.submit(reader.read, shards[0])
    last: Future[FeaturesShard] | None = None
    for shard, after in zip(shards, [*shards[1:], None], strict=True):
        current = following
        if after:
            following = reading.submit(reader.read, after)
        # Spark's retry of a JobError would fail likewise; the driver reports it in one line.
        try:
            images = current.result()
        except JobError as error:
            yield Outcome(None, error=str(error), damaged=isinstance(error, Damaged | NotFound))
            continue
        try:
            extracted = extract(shard, images, job, backbone)
        except JobError as error:
            yield Outcome(None, error=str(error))
            continue
        if last:
            yield _outcome(last)
        last = writing.submit(write, extracted, job)
    if last:
        yield _outcome(last)


def _is_retry() -> bool:
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


def _outcome(written: Future[FeaturesShard]) -> Outcome:
    try:
        return Outcome(written.result(), computed=True)
    except JobError as error:
        return Outcome(None, error=str(error))


def _merged(
    accepted: list[int], computed: list[int], features: npt.NDArray[np.float32], reused: reuse.ReusedFeatures
) -> npt.NDArray[np.float32]:
    """Computed and reused rows, in the order of ``accepted``."""
    places = {n: place for place, n in enumerate(accepted)}
    out = np.empty((len(accepted), features.shape[1]), np.float32)
    out[[places[n] for n in computed]] = features
    out[[places[n] for n in reused.positions]] = reused.features
    return out


def _rejects_table(rows: dict[str, Any], rejected: Mapping[int, RejectedImage]) -> pa.Table:
    refusals = [rejected[n] for n in sorted(rejected)]
    columns = {"reason": [r.reason.value for r in refusals], "detail": [r.detail for r in refusals]}
    return pa.table(rows | columns, schema=REJECTS_SCHEMA)
