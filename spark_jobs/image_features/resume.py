"""What an earlier attempt left of the extraction, and whether it can stay."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from image_features.contract import (
    REJECTS_SCHEMA,
    REUSED,
    REUSED_SCHEMA,
    FeaturesShard,
    SampleShard,
    reused_key,
    shard_key,
)
from image_features.errors import JobError
from image_features.features import read_features
from image_features.shards import delete_strays, read_shard, shard_info
from image_features.storage import Storage


@dataclass(frozen=True)
class ShardTask:
    """A shard to do, and what stands of it already."""

    shard: SampleShard
    existing_bytes: int = 0  # of its features object, 0 when there is none
    has_rejects: bool = False
    has_reused: bool = False


def task_of(shard: SampleShard, features: Mapping[str, int], rejects: Container[str]) -> ShardTask:
    """A shard to do; ``features``: sizes of the objects that lie there, by key; ``rejects``: their keys."""
    key = shard_key(shard.shard)
    return ShardTask(shard, features.get(key, 0), key in rejects, reused_key(shard.shard) in features)


def found(task: ShardTask, fingerprint: str, width: int, features: str, rejects: str) -> FeaturesShard | None:
    """The shard's counts when an earlier attempt finished it with this fingerprint, and it is whole.

    ``features`` and ``rejects`` are URIs.
    """
    if not task.existing_bytes:
        return None
    storage = Storage(features)
    try:
        metadata = storage.parquet_metadata(shard_key(task.shard.shard), task.existing_bytes)
    except JobError:
        return None  # damaged: computed again
    info = shard_info(metadata, FeaturesShard)
    if (
        info is None
        or info.fingerprint != fingerprint
        or bool(info.rejects) > task.has_rejects
        or bool(info.reused) > task.has_reused
        or not _is_whole(info, width, storage, Storage(rejects))
    ):
        return None
    return info


def _is_whole(shard: FeaturesShard, width: int, features: Storage, rejects: Storage) -> bool:
    """Whether a shard's features, rejects and list of reused features are there, and what it says.

    They are read whole: a footer outlives damage to the pages before it.
    """
    try:
        read_features(features, shard, width, ("image", "label", "sha256"))
        for storage, key, schema, rows in (
            (rejects, shard_key(shard.shard), REJECTS_SCHEMA, sum(shard.rejects.values())),
            (features, reused_key(shard.shard), REUSED_SCHEMA, shard.reused),
        ):
            if rows and read_shard(storage, key, schema).num_rows != rows:
                return False
    except JobError:
        return False
    return True


def delete_strays_of(
    shards: Sequence[FeaturesShard],
    features: Storage,
    standing: Iterable[str],
    rejects: Storage,
    standing_rejects: Iterable[str],
) -> None:
    """Delete what an earlier plan or attempt left beside the finished shards."""
    delete_strays(features, standing, {s.shard for s in shards})
    delete_strays(rejects, standing_rejects, {s.shard for s in shards if s.rejects})
    listed = {reused_key(s.shard) for s in shards if s.reused}
    features.delete(key for key in standing if key.startswith(f"{REUSED}/") and key not in listed)
