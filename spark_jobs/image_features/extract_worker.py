"""The part of the extraction that runs in Spark's workers: from a sample shard to a features shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features import resume, reuse, threads, versions
from image_features.contract import (
    FEATURES_SCHEMA,
    REJECTS_SCHEMA,
    REUSED_SCHEMA,
    SCHEMA_VERSION,
    BackboneSpec,
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
    """What every task of the step needs to know; sent to the workers once."""

    sample: str
    marker: SampleMarker
    output: str
    rejects: str
    spec: BackboneSpec
    model: bytes
    max_pixels: int = DEFAULT_MAX_PIXELS
    earlier: reuse.EarlierRun | None = None
    runtime: str = field(default_factory=versions.deciding)  # the driver's: all nodes have the same

    def fingerprint(self, shard: SampleShard) -> str:
        """Digest of everything that decides a features shard's content."""
        preprocessing = preprocessing_of(self.spec, self.max_pixels)
        return digest_of(str(SCHEMA_VERSION), self.spec.digest, preprocessing, self.runtime, shard.digest)


def _standing(task: ShardTask, job: ExtractionJob) -> FeaturesShard | None:
    """The shard's counts when an earlier attempt finished it for these very inputs, and it is whole."""
    return resume.found(task, job.fingerprint(task.shard), job.spec.width, job.output, job.rejects)


@dataclass(frozen=True)
class Outcome:
    """What a task sends back to the driver: a few numbers, never image bytes or features."""

    done: FeaturesShard | None
    computed: bool = False
    error: str | None = None
    damaged: bool = False  # with an error: the sample's shard is not what its marker lists


def run_tasks(parts: Iterator[list[ShardTask]], job: ExtractionJob) -> Iterator[Outcome]:
    """Run shard tasks in this worker process."""
    for tasks in parts:
        if _is_retry():
            # What an earlier attempt finished since the driver looked need not be done again.
            features = {obj.key: obj.size for obj in Storage(job.output).list()}
            rejects = {obj.key for obj in Storage(job.rejects).list()}
            tasks = [task_of(task.shard, features, rejects) for task in tasks]
        missing = []
        for task in tasks:
            done = _standing(task, job)
            if done:
                yield Outcome(done)
            else:
                missing.append(task.shard)
        if missing:
            yield from _compute(missing, job)


def _is_retry() -> bool:
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


def _compute(shards: list[SampleShard], job: ExtractionJob) -> Iterator[Outcome]:
    """Compute shards one after another; the next is read and the last written meanwhile."""
    backbone = open_once(job.model, job.spec)
    reader = SampleReader(Storage(job.sample), job.marker)
    reading, writing = threads.reader_and_writer()
    following: Future[ShardImages] = reading.submit(reader.read, shards[0])
    last: Future[FeaturesShard] | None = None
    for shard, after in zip(shards, [*shards[1:], None], strict=True):
        current = following
        if after:
            following = reading.submit(reader.read, after)
        # Trying again would end the same way; the driver says it in one line.
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


def _outcome(written: Future[FeaturesShard]) -> Outcome:
    try:
        return Outcome(written.result(), computed=True)
    except JobError as error:
        return Outcome(None, error=str(error))


@dataclass(frozen=True)
class Extracted:
    """A computed shard: its tables, ready to be written."""

    info: FeaturesShard
    features: dict[str, Any]  # columns of FEATURES_SCHEMA
    rejects: pa.Table
    reused: pa.Table


def extract(shard: SampleShard, found: ShardImages, job: ExtractionJob, backbone: Backbone) -> Extracted:
    """Compute one shard.

    Raises JobError when the backbone gives NaN or infinity, ShortOfMemory that names the image.
    """
    images, labels, sha256 = found.images, found.labels, found.sha256
    taken = job.earlier.find(sha256) if job.earlier else None
    skipped = set(taken.positions) if taken else set()
    asked = [n for n in range(len(images)) if n not in skipped]
    try:
        features, refused = backbone.features([found.contents[n] for n in asked], job.max_pixels)
    except ShortOfMemory as error:
        if error.position is None:
            raise
        image = images[asked[error.position]]
        # Without its cause: of a chain the driver would be told the first, which knows no image.
        raise ShortOfMemory(f"shard {shard.shard}, image {image!r}: {error}") from None
    rejected = {asked[n]: reject for n, reject in refused.items()}
    kept = [n for n in range(len(images)) if n not in rejected]
    if taken and taken.positions:
        features = _merged(kept, [n for n in asked if n not in rejected], features, taken)
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        raise JobError(
            f"the backbone gives NaN or infinity for image {images[kept[bad]]!r}; are these its weights?"
        )
    info = FeaturesShard(
        shard=shard.shard,
        images=len(images),
        features=len(kept),
        rejects=dict(sorted(Counter(r.reason.value for r in rejected.values()).items())),
        fingerprint=job.fingerprint(shard),
        reused=len(skipped),
    )

    def rows(numbers: list[int]) -> dict[str, Any]:
        columns = (("image", images), ("label", labels), ("sha256", sha256))
        return {name: [values[n] for n in numbers] for name, values in columns}

    return Extracted(
        info,
        rows(kept) | {"features": list_array(features)},
        _rejects_table(rows(sorted(rejected)), rejected),
        pa.table(
            rows(taken.positions) | {"origin": taken.origins} if taken else REUSED_SCHEMA.empty_table(),
            schema=REUSED_SCHEMA,
        ),
    )


def _merged(
    kept: list[int], computed: list[int], features: npt.NDArray[np.float32], taken: reuse.Found
) -> npt.NDArray[np.float32]:
    """Rows computed and rows taken over, in the order of ``kept``."""
    places = {n: place for place, n in enumerate(kept)}
    out = np.empty((len(kept), features.shape[1]), np.float32)
    out[[places[n] for n in computed]] = features
    out[[places[n] for n in taken.positions]] = taken.features
    return out


def _rejects_table(rows: dict[str, Any], rejected: Mapping[int, RejectedImage]) -> pa.Table:
    refusals = [rejected[n] for n in sorted(rejected)]
    columns = {"reason": [r.reason.value for r in refusals], "detail": [r.detail for r in refusals]}
    return pa.table(rows | columns, schema=REJECTS_SCHEMA)


def write(extracted: Extracted, job: ExtractionJob) -> FeaturesShard:
    """Write a shard's rejects and its list of reused features, then its features: they make it done."""
    info, output = extracted.info, Storage(job.output)
    if info.rejects:
        Storage(job.rejects).put(shard_key(info.shard), parquet_bytes(extracted.rejects))
    if info.reused:
        Storage(job.output, create=True).put(reused_key(info.shard), parquet_bytes(extracted.reused))
    write_shard(output, FEATURES_SCHEMA, extracted.features, info)
    return info
