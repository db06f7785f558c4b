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
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from image_features import memory, reuse
from image_features.contract import (
    MARKER,
    FeaturesMarker,
    FeaturesShard,
    SampleMarker,
)
from image_features.documents import own_marker, read_document, to_json, withdraw
from image_features.errors import Failed, JobError
from image_features.extract_worker import ExtractionJob, _standing, run_tasks
from image_features.images import DEFAULT_MAX_PIXELS, preprocessing_of
from image_features.inference import read_backbone
from image_features.resume import ShardTask, delete_strays_of, task_of
from image_features.storage import Storage, normalise_uri


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


def _named(tasks: Sequence[ShardTask]) -> str:
    """Which shards a Spark task works on."""
    numbers = [task.shard.shard for task in tasks]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {numbers[0]} to {numbers[-1]}"


def refuse_too_many(marker: FeaturesMarker, limit: float, rejects: str) -> None:
    """Raise Failed when more than ``limit`` (0 to 1) of the images are rejects; they lie in ``rejects``."""
    if marker.rejects <= limit * marker.images:
        return
    reasons = sorted(marker.rejects_by_reason.items(), key=lambda item: -item[1])
    raise Failed(
        f"{marker.rejects:,} of {marker.images:,} images were rejected "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons)}), more than the share of "
        f"{limit:g} that max_reject_rate allows; {rejects} names each with its reason. Mend the source and "
        "draw it anew, or run again under this key with a higher max_reject_rate: nothing is computed again"
    )
