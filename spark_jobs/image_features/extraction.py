"""Step 1: features of every image of a sample.

A shard is done when its features object is there and its fingerprint says that it came from this
sample shard, this model and this preprocessing. Running the step again computes only the shards
that are not.

A Spark task is a run of neighbouring shards: while one is computed, the next is read and the last
one written. The tasks get shorter towards the end, so that the cores finish together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features import memory, reuse, standing, threads, versions
from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    REJECTS_SCHEMA,
    REUSED_SCHEMA,
    SCHEMA_VERSION,
    BackboneSpec,
    FeaturesMarker,
    FeaturesShard,
    SampleMarker,
    SampleShard,
    digest_of,
    own_marker,
    read_document,
    reused_key,
    shard_key,
    to_json,
    withdraw,
)
from image_features.errors import Damaged, JobError
from image_features.images import DEFAULT_MAX_PIXELS, RejectedImage
from image_features.inference import Backbone, open_once, read_backbone
from image_features.rejects import refuse_too_many
from image_features.samples import SampleReader, ShardImages
from image_features.shards import list_array, parquet_bytes, write_shard
from image_features.standing import ShardTask, delete_strays_of, task_of
from image_features.step import Failed
from image_features.storage import NotFound, Storage, normalise_uri


def preprocessing_of(spec: BackboneSpec, max_pixels: int) -> str:
    """What decides an image's features beside its bytes and the backbone."""
    return f"{spec.preprocessing} {spec.input_size} {max_pixels}"


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


def bundles(count: int, slots: int) -> list[range]:
    """Cut ``count`` shards into tasks for ``slots`` workers, each a run of neighbours.

    Each round hands out half of what is left, in equal parts; at the end one shard at a time
    ("factoring": Hummel, Schonberg and Flynn, CACM 35(8), 1992). So most shards have a neighbour
    to overlap with, and the cores still finish together.
    """
    cut: list[range] = []
    at = 0
    while at < count:
        size = max(1, (count - at) // (2 * slots))
        for _ in range(slots):
            if at < count:
                cut.append(range(at, min(at + size, count)))
                at = cut[-1].stop
    return cut


def run(
    spark: Any,
    sample: str,
    model: str,
    output: str,
    rejects: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    earlier_run: str | None = None,
    max_reject_rate: float = 1.0,
) -> FeaturesMarker:
    """Extract the features of ``sample`` with ``model`` into ``output``; all are URIs.

    ``rejects`` defaults to the prefix "rejects" beside ``output``. Features that ``earlier_run``
    has are taken over (see reuse). Raises JobError when an input is missing or does not hold what
    its marker says, and Failed when the workers are short of memory, or when more than
    ``max_reject_rate`` of the images are rejected, features and rejects having been written; nothing
    then looks finished.
    """
    started = time.monotonic()
    output = normalise_uri(output)
    if not rejects:
        beside = output.rpartition("/")[0]
        if beside == "s3:/":
            raise JobError(
                f"{output} is a whole bucket: nothing is beside it, say with --rejects where they go"
            )
        rejects = f"{beside}/rejects"
    rejects = normalise_uri(rejects)
    if len({output, rejects, normalise_uri(sample)}) < 3:
        raise JobError(f"sample, output and rejects must be three different prefixes, got {output} twice")
    plan = read_document(SampleMarker, Storage(sample))
    spec, model_bytes = read_backbone(model)
    earlier_marker = None
    if earlier_run:
        if reuse.features_of(earlier_run) == output:
            raise JobError(f"{earlier_run} is this very run; its finished shards stay in any case")
        earlier_marker = reuse.check(earlier_run, spec, preprocessing_of(spec, max_pixels))
    job = ExtractionJob(normalise_uri(sample), plan, output, rejects, spec, model_bytes, max_pixels)

    features_storage, rejects_storage = Storage(output, create=True), Storage(rejects, create=True)
    lying = {obj.key: obj.size for obj in features_storage.list()}
    lying_rejects = {obj.key for obj in rejects_storage.list()}
    tasks = [task_of(shard, lying, lying_rejects) for shard in plan.shards]
    marker = own_marker(FeaturesMarker, features_storage) if MARKER in lying else None
    # They are read although the marker stands: a shard may have been damaged since.
    found = _look(spark.sparkContext, tasks, job)
    missing = [task for task in tasks if task.shard.shard not in found]
    if marker and not missing and marker.shards == list(found.values()):
        delete_strays_of(marker.shards, features_storage, lying, rejects_storage, lying_rejects)
        try:
            refuse_too_many(marker, max_reject_rate, rejects)
        except Failed:
            features_storage.delete([MARKER])
            raise
        return marker
    # From here on the prefix is not a finished one, whatever it was before.
    features_storage.delete([MARKER])

    if earlier_run and earlier_marker and reuse.same_runtime(earlier_marker, job.runtime):
        job = replace(job, earlier=reuse.index(spark, earlier_run, earlier_marker))
    broadcast = spark.sparkContext.broadcast(job)
    # While executors are still registering, Spark knows of fewer cores than there will be; tasks cut
    # for too few would be long ones that the other cores wait for.
    slots = max(plan.cores, spark.sparkContext.defaultParallelism)
    parts = [missing[part.start : part.stop] for part in bundles(len(missing), slots)]
    with memory.told([_named(part) for part in parts]):
        outcomes = (
            spark.sparkContext.parallelize(parts, max(1, len(parts)))
            .mapPartitions(lambda part: run_tasks(part, broadcast.value))
            .collect()
        )
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        # A damaged sample must not look finished any longer: only drawing it again can mend it.
        spoilt = next((outcome for outcome in failed if outcome.damaged), None)
        said = (spoilt or failed[0]).error + (withdraw(Storage(sample)) if spoilt else "")
        raise JobError(f"{len(failed)} of {len(tasks)} shards cannot be extracted; the first: {said}")

    computed = [outcome.done for outcome in outcomes]
    shards = sorted([*found.values(), *computed], key=lambda done: done.shard)
    delete_strays_of(shards, features_storage, lying, rejects_storage, lying_rejects)
    reasons = sum((Counter(s.rejects) for s in shards), Counter())
    marker = FeaturesMarker(
        images=sum(s.images for s in shards),
        features=sum(s.features for s in shards),
        rejects=reasons.total(),
        rejects_by_reason=dict(sorted(reasons.items())),
        width=spec.width,
        model_digest=spec.digest,
        backbone=spec.backbone,
        weights=spec.weights,
        preprocessing=preprocessing_of(spec, max_pixels),
        shards=shards,
        computed_shards=sum(outcome.computed for outcome in outcomes),
        seconds=round(time.monotonic() - started, 3),
        reused=sum(s.reused for s in shards),
        reuse=normalise_uri(earlier_run) if earlier_run else None,
        runtime=job.runtime,
    )
    # The shards stand and are right; without the marker nobody takes a refused run for a good one.
    refuse_too_many(marker, max_reject_rate, rejects)
    features_storage.put(MARKER, to_json(marker))
    return marker


def _look(context: Any, tasks: list[ShardTask], job: ExtractionJob) -> dict[int, FeaturesShard]:
    """What an earlier attempt has finished for these very inputs, by its number; looked at by the workers."""
    there = [task for task in tasks if task.existing_bytes]
    if not there:
        return {}
    slim = context.broadcast(replace(job, model=b""))
    found = (
        context.parallelize(there, min(len(there), 2 * context.defaultParallelism))
        .map(lambda task: _standing(task, slim.value))
        .collect()
    )
    return {info.shard: info for info in found if info}


def _standing(task: ShardTask, job: ExtractionJob) -> FeaturesShard | None:
    """The shard's counts when an earlier attempt finished it for these very inputs, and it is whole."""
    return standing.found(task, job.fingerprint(task.shard), job.spec.width, job.output, job.rejects)


def _named(tasks: Sequence[ShardTask]) -> str:
    """Which shards a Spark task works on."""
    numbers = [task.shard.shard for task in tasks]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {numbers[0]} to {numbers[-1]}"


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
    except memory.ShortOfMemory as error:
        if error.position is None:
            raise
        image = images[asked[error.position]]
        # Without its cause: of a chain the driver would be told the first, which knows no image.
        raise memory.ShortOfMemory(f"shard {shard.shard}, image {image!r}: {error}") from None
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
