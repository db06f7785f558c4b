"""Step 1: features of every image of a sample, one Spark task a shard.

A shard is done when its features object is there and its fingerprint says that it came from this
sample shard, this model and this preprocessing. Running the step again computes only the shards
that are not.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    REJECTS_SCHEMA,
    SAMPLE_SCHEMA,
    SCHEMA_VERSION,
    BackboneSpec,
    FeaturesMarker,
    FeaturesShard,
    SampleMarker,
    SampleShard,
    content_digest,
    digest_of,
    find_document,
    read_document,
    shard_key,
    to_json,
)
from image_features.errors import JobError
from image_features.images import DEFAULT_MAX_PIXELS
from image_features.inference import Backbone, open_once, read_backbone
from image_features.shards import delete_strays, parquet_bytes, read_shard, shard_info, write_shard
from image_features.storage import Storage, normalise_uri


@dataclass(frozen=True)
class ExtractionJob:
    """What every task of the step needs to know; sent to the workers once."""

    sample: str
    output: str
    rejects: str
    spec: BackboneSpec
    model: bytes
    max_pixels: int = DEFAULT_MAX_PIXELS

    def fingerprint(self, shard: SampleShard) -> str:
        """Digest of everything that decides a features shard's content."""
        spec = self.spec
        preprocessing = f"{spec.preprocessing} {spec.input_size} {self.max_pixels}"
        return digest_of(str(SCHEMA_VERSION), spec.digest, preprocessing, shard.digest)


@dataclass(frozen=True)
class ShardTask:
    """One task: a shard, and the size of the features object that stands for it, 0 for none."""

    shard: SampleShard
    existing_bytes: int
    has_rejects: bool


def run(
    spark: Any,
    sample: str,
    model: str,
    output: str,
    rejects: str | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> FeaturesMarker:
    """Extract the features of ``sample`` with ``model`` into ``output``; all are URIs.

    ``rejects`` defaults to the prefix "rejects" beside ``output``. Raises JobError when an input
    is missing or does not hold what its marker says; nothing then looks finished.
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
    job = ExtractionJob(normalise_uri(sample), output, rejects, spec, model_bytes, max_pixels)

    features_storage, rejects_storage = Storage(output, create=True), Storage(rejects, create=True)
    standing = {obj.key: obj.size for obj in features_storage.list()}
    standing_rejects = {obj.key for obj in rejects_storage.list()}
    tasks = [
        ShardTask(shard, standing.get(shard_key(shard.shard), 0), shard_key(shard.shard) in standing_rejects)
        for shard in plan.shards
    ]
    marker = find_document(FeaturesMarker, features_storage) if MARKER in standing else None
    expected = digest_of(*(job.fingerprint(shard) for shard in plan.shards))
    # The footers are read although the marker stands: a shard may have been damaged since.
    if marker and marker.digest == expected and all(_standing(task, job) for task in tasks):
        return marker
    # From here on the prefix is not a finished one, whatever it was before.
    features_storage.delete([MARKER])

    broadcast = spark.sparkContext.broadcast(job)
    outcomes = (
        spark.sparkContext.parallelize(tasks, max(1, len(tasks)))
        .mapPartitions(lambda part: run_tasks(part, broadcast.value))
        .collect()
    )
    failed = [outcome.error for outcome in outcomes if outcome.error]
    if failed:
        raise JobError(f"{len(failed)} of {len(tasks)} shards cannot be extracted; the first: {failed[0]}")

    shards = sorted((outcome.done for outcome in outcomes), key=lambda done: done.shard)
    delete_strays(features_storage, standing, {s.shard for s in shards})
    delete_strays(rejects_storage, standing_rejects, {s.shard for s in shards if s.rejects})
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
        shards=shards,
        computed_shards=sum(outcome.computed for outcome in outcomes),
        seconds=round(time.monotonic() - started, 3),
    )
    features_storage.put(MARKER, to_json(marker))
    return marker


@dataclass(frozen=True)
class Outcome:
    """What a task sends back to the driver: a few numbers, never image bytes or features."""

    done: FeaturesShard | None
    computed: bool = False
    error: str | None = None


def run_tasks(tasks: Iterator[ShardTask], job: ExtractionJob) -> Iterator[Outcome]:
    """Run shard tasks in this worker process."""
    for task in tasks:
        try:
            standing = _standing(task, job)
            if standing:
                yield Outcome(standing)
            else:
                yield Outcome(extract_shard(task.shard, job, open_once(job.model, job.spec)), computed=True)
        except JobError as error:
            # Trying again would end the same way; the driver says it in one line.
            yield Outcome(None, error=str(error))


def _standing(task: ShardTask, job: ExtractionJob) -> FeaturesShard | None:
    """The shard's counts when an earlier attempt finished it for these very inputs."""
    if not task.existing_bytes:
        return None
    try:
        metadata = Storage(job.output).parquet_metadata(shard_key(task.shard.shard), task.existing_bytes)
    except JobError:
        return None  # damaged: computed again
    info = shard_info(metadata, FeaturesShard)
    if (
        info is None
        or info.fingerprint != job.fingerprint(task.shard)
        or bool(info.rejects) > task.has_rejects
    ):
        return None
    return info


def extract_shard(shard: SampleShard, job: ExtractionJob, backbone: Backbone) -> FeaturesShard:
    """Compute one shard and write its rejects, then its features: the features make it done."""
    sample = Storage(job.sample)
    key = shard_key(shard.shard)
    table = read_shard(sample, key, SAMPLE_SCHEMA)
    images, labels, sha256 = (table.column(name).to_pylist() for name in ("image", "label", "sha256"))
    contents = table.column("content").to_pylist()
    found = [hashlib.sha256(content).hexdigest() for content in contents]
    if found != sha256 or content_digest(images, labels, sha256) != shard.digest:
        raise JobError(f"{sample.uri_of(key)} is not the shard that the sample's marker lists; draw it again")

    features, rejected = backbone.features(contents, job.max_pixels)
    if not np.isfinite(features).all():
        bad = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        name = [image for n, image in enumerate(images) if n not in rejected][bad]
        raise JobError(f"the backbone gives NaN or infinity for image {name!r}; are these its weights?")

    kept = [n for n in range(len(images)) if n not in rejected]
    info = FeaturesShard(
        shard=shard.shard,
        images=len(images),
        features=len(kept),
        rejects=dict(sorted(Counter(r.reason.value for r in rejected.values()).items())),
        fingerprint=job.fingerprint(shard),
    )
    if rejected:
        _write_rejects(Storage(job.rejects), key, images, labels, sha256, rejected)
    offsets = np.arange(len(kept) + 1, dtype=np.int32) * features.shape[1]
    columns = {
        "image": [images[n] for n in kept],
        "label": [labels[n] for n in kept],
        "sha256": [sha256[n] for n in kept],
        "features": pa.ListArray.from_arrays(offsets, features.ravel()),
    }
    write_shard(Storage(job.output), FEATURES_SCHEMA, columns, info)
    return info


def _write_rejects(
    storage: Storage,
    key: str,
    images: list[str],
    labels: list[str],
    sha256: list[str],
    rejected: dict[int, Any],
) -> None:
    rows = sorted(rejected)
    table = pa.table(
        {
            "image": [images[n] for n in rows],
            "label": [labels[n] for n in rows],
            "sha256": [sha256[n] for n in rows],
            "reason": [rejected[n].reason.value for n in rows],
            "detail": [rejected[n].detail for n in rows],
        },
        schema=REJECTS_SCHEMA,
    )
    storage.put(key, parquet_bytes(table))
