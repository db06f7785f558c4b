"""Resuming an extraction: which shards an earlier attempt has finished, and which objects are left over."""

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
    """A shard to extract, and which of its objects exist."""

    shard: SampleShard
    existing_bytes: int = 0  # size of its features object, 0 when there is none
    has_rejects: bool = False
    has_reused: bool = False


def task_of(shard: SampleShard, features: Mapping[str, int], rejects: Container[str]) -> ShardTask:
    """The task of a shard. ``features``: sizes of the features' objects, by key; ``rejects``: keys."""
    key = shard_key(shard.shard)
    return ShardTask(shard, features.get(key, 0), key in rejects, reused_key(shard.shard) in features)


def finished_shard(
    task: ShardTask, fingerprint: str, width: int, features: str, rejects: str
) -> FeaturesShard | None:
    """The shard's counts if an earlier attempt finished it with this fingerprint, and it is intact.

    ``features`` and ``rejects`` are URIs.
    """
    if not task.existing_bytes:
        return None
    storage = Storage(features)
    try:
        metadata = storage.parquet_metadata(shard_key(task.shard.shard), task.existing_bytes)
    except JobError:
        return None
    info = shard_info(metadata, FeaturesShard)
    if (
        info is None
        or info.fingerprint != fingerprint
        or bool(info.rejects) > task.has_rejects
        or bool(info.reused) > task.has_reused
        or not _is_intact(info, width, storage, Storage(rejects))
    ):
        return None
    return info


def _is_intact(shard: FeaturesShard, width: int, features: Storage, rejects: Storage) -> bool:
    """Whether a shard's features, rejects and list of reused features can be read and have its counts.

    They are read whole: where pages are damaged, the footer may still be intact.
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
    features_keys: Iterable[str],
    rejects: Storage,
    rejects_keys: Iterable[str],
) -> None:
    """Delete what an earlier sample or attempt left beside the finished shards."""
    delete_strays(features, features_keys, {s.shard for s in shards})
    delete_strays(rejects, rejects_keys, {s.shard for s in shards if s.rejects})
    listed = {reused_key(s.shard) for s in shards if s.reused}
    features.delete(key for key in features_keys if key.startswith(f"{REUSED}/") and key not in listed)
