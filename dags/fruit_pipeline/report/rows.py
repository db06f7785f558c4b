"""A random sample of a run's rows, with features and embeddings, small enough to hold in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features.contract import EMBEDDINGS_SCHEMA, FeaturesMarker, FeaturesShard, PcaMarker, shard_key
from image_features.errors import JobError
from image_features.features import read_features
from image_features.shards import read_shard
from image_features.storage import Storage

ROWS = 4_000
"""Rows on which quality is measured."""

READ_BYTES = 2_000_000_000
"""Bytes of features to read. Of a larger run, only some shards are read, chosen by the seed."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Rows:
    """Rows of a run, in order of the images' names."""

    images: list[str]
    labels: list[str]
    shards: list[int]  # the shard of each row
    features: Floats  # (rows, width)
    embeddings: Floats  # (rows, components)
    shards_read: int

    def __len__(self) -> int:
        return len(self.images)


def draw(
    features_store: Storage,
    features: FeaturesMarker,
    pca_store: Storage,
    pca: PcaMarker,
    rng: np.random.Generator,
    limit: int = ROWS,
    read_bytes: int = READ_BYTES,
) -> Rows:
    """Draw at most ``limit`` rows, with equal probability, from the shards that are read.

    One shard is in memory at a time. Raises JobError when a shard is not the one that the markers list.
    """
    shards = _shards(features, rng, read_bytes)
    ends = np.cumsum([shard.features for shard in shards])
    wanted = np.sort(rng.choice(ends[-1], min(limit, ends[-1]), replace=False))
    images: list[str] = []
    labels: list[str] = []
    numbers: list[int] = []
    wide: list[Floats] = []
    reduced: list[Floats] = []
    for shard, end in zip(shards, ends, strict=True):
        start = end - shard.features
        at = wanted[(wanted >= start) & (wanted < end)] - start
        if not len(at):
            continue
        table, values = read_features(features_store, shard, features.width, ("image", "label"))
        table = table.select(["image", "label"]).take(pa.array(at))
        images += table.column("image").to_pylist()
        labels += table.column("label").to_pylist()
        numbers += [shard.shard] * len(at)
        wide.append(values[at])
        reduced.append(_embeddings(pca_store, shard, at, pca.components, images[-len(at) :]))
    return Rows(images, labels, numbers, np.concatenate(wide), np.concatenate(reduced), len(set(numbers)))


def _shards(marker: FeaturesMarker, rng: np.random.Generator, read_bytes: int) -> list[FeaturesShard]:
    """Shards that have rows, in their order: all, or as many random ones as reach ``read_bytes``."""
    candidates = [shard for shard in marker.shards if shard.features]
    chosen, size = [], 0
    for number in rng.permutation(len(candidates)):
        if size >= read_bytes:
            break
        chosen.append(int(number))
        size += candidates[number].features * marker.width * 4
    return [candidates[number] for number in sorted(chosen)]


def _embeddings(
    storage: Storage, shard: FeaturesShard, at: npt.NDArray[Any], components: int, images: Sequence[str]
) -> Floats:
    """Embeddings of the rows ``at`` of a shard, float32 (rows, components)."""
    key = shard_key(shard.shard)
    table = read_shard(storage, key, EMBEDDINGS_SCHEMA, ["image", "embedding"])
    lists = table.column("embedding").combine_chunks()
    values = lists.flatten().to_numpy()
    if table.num_rows != shard.features or len(values) != shard.features * components:
        raise JobError(f"{storage.uri_of(key)} does not belong to the features; run the PCA step again")
    if table.column("image").take(pa.array(at)).to_pylist() != list(images):
        raise JobError(f"{storage.uri_of(key)}: its images are not those of the features, in order")
    return np.asarray(values, np.float32).reshape(-1, components)[at]
