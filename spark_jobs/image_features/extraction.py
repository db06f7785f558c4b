"""Step 1: features of every image of a sample; the driver's part, extract_worker being the workers'.

A shard is finished when its features object exists and its fingerprint says that it was computed from
this sample shard, this model and this preprocessing. Running the step again computes only the shards
that are not finished.

A Spark task is a run of neighbouring shards: while one is computed, the next is read and the last
one is written. Tasks get shorter towards the end, so that the cores finish together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from image_features import reuse
from image_features.contract import MARKER, FeaturesMarker, FeaturesShard, LeftOut, SampleMarker
from image_features.documents import own_document, read_document, to_json, withdraw, withdrawing
from image_features.errors import Failed, JobError, Stage
from image_features.extract_worker import ExtractionJob, Outcome, finished_shard, run_tasks
from image_features.images import DEFAULT_MAX_PIXELS, preprocessing_of
from image_features.inference import read_backbone
from image_features.resume import ShardTask, delete_strays_of, task_of
from image_features.spark import memory_failures_explained
from image_features.storage import Storage, normalise_uri


def run(
    spark: Any,
    sample: str,
    model: str,
    output: str,
    rejects: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    earlier_run: str | None = None,
    max_reject_rate: float = 1.0,
    count_left_out: bool = False,
) -> FeaturesMarker:
    """Extract the features of ``sample`` with ``model`` into ``output``; all are URIs.

    ``rejects`` defaults to the prefix "rejects" beside ``output``. Features that ``earlier_run`` has
    are taken over (see reuse). Raises JobError when an input is missing or is not what its marker
    says. Raises Failed when the workers lack memory, and when more than ``max_reject_rate`` (0 to 1)
    of the images are rejected: features and rejects are then written, but the marker is not. With
    ``count_left_out``, files of the source that are left out of the sample count as rejected images.
    """
    started = time.monotonic()
    output = normalise_uri(output)
    rejects = normalise_uri(rejects) if rejects else _rejects_beside(output)
    if len({output, rejects, normalise_uri(sample)}) < 3:
        raise JobError(f"sample, output and rejects must be three different prefixes, got {output} twice")
    with withdrawing({Stage.SAMPLE: Storage(sample)}):
        plan = read_document(SampleMarker, Storage(sample))
    spec, model_bytes = read_backbone(model)
    earlier_marker = None
    if earlier_run:
        if reuse.features_of(earlier_run) == output:
            raise JobError(f"{earlier_run} is this very run; its finished shards stay in any case")
        earlier_marker = reuse.check(earlier_run, spec, preprocessing_of(spec, max_pixels))
    lost = [row for row in plan.left_out if row.is_loss] if count_left_out else []
    job = ExtractionJob(normalise_uri(sample), plan, output, rejects, spec, model_bytes, max_pixels)

    features_storage, rejects_storage = Storage(output, create=True), Storage(rejects, create=True)
    features_sizes = {obj.key: obj.size for obj in features_storage.list()}
    rejects_keys = {obj.key for obj in rejects_storage.list()}
    tasks = [task_of(shard, features_sizes, rejects_keys) for shard in plan.shards]
    marker = own_document(FeaturesMarker, features_storage) if MARKER in features_sizes else None
    # The shards are checked although there is a marker: one may have been damaged since it was written. So is
    # every value of the marker itself, which follows from the shards.
    finished = _finished_shards(spark.sparkContext, tasks, job)
    missing = [task for task in tasks if task.shard.shard not in finished]
    if (
        marker
        and not missing
        and marker
        == _marker_of(
            list(finished.values()),
            job,
            computed_shards=marker.computed_shards,
            seconds=marker.seconds,
            reuse=marker.reuse,
        )
    ):
        delete_strays_of(marker.shards, features_storage, features_sizes, rejects_storage, rejects_keys)
        try:
            check_reject_rate(marker, max_reject_rate, rejects, lost)
        except Failed:
            features_storage.delete([MARKER])
            raise
        return marker
    # From here on the prefix is unfinished, whatever it was before.
    features_storage.delete([MARKER])

    if earlier_run and earlier_marker and reuse.same_runtime(earlier_marker, job.runtime):
        job = replace(job, earlier=reuse.index(spark, earlier_run, earlier_marker))
    outcomes = _computed(spark.sparkContext, missing, job)
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        # A damaged sample must not look finished any longer: only drawing it again can repair it.
        damaged = next((outcome for outcome in failed if outcome.damaged), None)
        raise JobError(
            f"{len(failed)} of {len(tasks)} shards cannot be extracted; the first: "
            f"{(damaged or failed[0]).error}{withdraw(Storage(sample)) if damaged else ''}"
        )

    shards = sorted(
        [*finished.values(), *(outcome.done for outcome in outcomes if outcome.done)],
        key=lambda shard: shard.shard,
    )
    delete_strays_of(shards, features_storage, features_sizes, rejects_storage, rejects_keys)
    marker = _marker_of(
        shards,
        job,
        computed_shards=sum(outcome.computed for outcome in outcomes),
        seconds=round(time.monotonic() - started, 3),
        reuse=normalise_uri(earlier_run) if earlier_run else None,
    )
    # Before the marker is written: without it, no reader takes a refused run for a finished one.
    check_reject_rate(marker, max_reject_rate, rejects, lost)
    features_storage.put(MARKER, to_json(marker))
    return marker


def _marker_of(
    shards: list[FeaturesShard],
    job: ExtractionJob,
    *,
    computed_shards: int,
    seconds: float,
    reuse: str | None,
) -> FeaturesMarker:
    """The marker of finished shards; the arguments by name are of the attempt that wrote it."""
    reasons = sum((Counter(s.rejects) for s in shards), Counter())
    return FeaturesMarker(
        images=sum(s.images for s in shards),
        features=sum(s.features for s in shards),
        rejects=reasons.total(),
        rejects_by_reason=dict(sorted(reasons.items())),
        width=job.spec.width,
        model_digest=job.spec.digest,
        backbone=job.spec.backbone,
        weights=job.spec.weights,
        preprocessing=preprocessing_of(job.spec, job.max_pixels),
        shards=shards,
        computed_shards=computed_shards,
        seconds=seconds,
        reused=sum(s.reused for s in shards),
        reuse=reuse,
        runtime=job.runtime,
        conversions=dict(sorted(sum((Counter(s.conversions) for s in shards), Counter()).items())),
    )


def bundles(count: int, slots: int) -> list[range]:
    """Cut ``count`` shards into tasks for ``slots`` workers; each task is a run of neighbours.

    Each round hands out half of the remaining shards, in equal parts; the last tasks are single shards
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


def check_reject_rate(
    marker: FeaturesMarker, limit: float, rejects: str, lost: Sequence[LeftOut] = ()
) -> None:
    """Raise Failed when more than ``limit`` (0 to 1) of the images are rejected. ``rejects``: their URI.

    ``lost``: files left out that count as rejected images.
    """
    by_reason = Counter(marker.rejects_by_reason)
    for row in lost:
        by_reason[f"left out as {row.reason}"] += row.files
    images = marker.images + sum(row.files for row in lost)
    if by_reason.total() <= limit * images:
        return
    reasons = sorted(by_reason.items(), key=lambda item: -item[1])
    raise Failed(
        f"{by_reason.total():,} of {images:,} images were rejected "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons)}), more than the share of "
        f"{limit:g} that max_reject_rate allows; {rejects} names each with its reason. Mend the source and "
        "draw it anew, or run again under this key with a higher max_reject_rate: nothing is computed again"
    )


def _rejects_beside(output: str) -> str:
    beside = output.rpartition("/")[0]
    if beside == "s3:/":
        raise JobError(f"{output} is a whole bucket: nothing is beside it, say with --rejects where they go")
    return f"{beside}/rejects"


def _finished_shards(context: Any, tasks: list[ShardTask], job: ExtractionJob) -> dict[int, FeaturesShard]:
    """Shards that an earlier attempt finished from the same inputs, by number; the workers check them."""
    candidates = [task for task in tasks if task.existing_bytes]
    if not candidates:
        return {}
    without_model = context.broadcast(replace(job, model=b""))
    checked = (
        context.parallelize(candidates, min(len(candidates), 2 * context.defaultParallelism))
        .map(lambda task: finished_shard(task, without_model.value))
        .collect()
    )
    return {shard.shard: shard for shard in checked if shard}


def _computed(context: Any, missing: list[ShardTask], job: ExtractionJob) -> list[Outcome]:
    """Compute shards in the workers; raises Failed when these lack memory."""
    broadcast = context.broadcast(job)
    # While executors are still registering, Spark knows of fewer cores than there will be. Tasks that are
    # cut for too few cores would be long, and the other cores would wait for them.
    slots = max(job.marker.cores, context.defaultParallelism)
    parts = [missing[part.start : part.stop] for part in bundles(len(missing), slots)]
    with memory_failures_explained([_names_of(part) for part in parts]):
        return (
            context.parallelize(parts, max(1, len(parts)))
            .mapPartitions(lambda part: run_tasks(part, broadcast.value))
            .collect()
        )


def _names_of(tasks: Sequence[ShardTask]) -> str:
    numbers = [task.shard.shard for task in tasks]
    return f"shard {numbers[0]}" if len(numbers) == 1 else f"shards {numbers[0]} to {numbers[-1]}"
