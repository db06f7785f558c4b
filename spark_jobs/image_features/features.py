"""Reads features shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from image_features.contract import FEATURES_SCHEMA, FeaturesShard, shard_key
from image_features.errors import Damaged, Stage, reading
from image_features.shards import info_of, read_shard
from image_features.storage import Storage


@reading(Stage.FEATURES)
def read_features(
    storage: Storage, shard: FeaturesShard, width: int, columns: tuple[str, ...] = ()
) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """Read a features shard: the named columns, and the features as float32 (rows, width).

    Raises Damaged, or NotFound, that names the object when it is not the one that the marker lists: other
    rows, another width, NaN or infinity, features of another backbone.
    """
    key = shard_key(shard.shard)
    uri = storage.uri_of(key)
    table = read_shard(storage, key, FEATURES_SCHEMA, [*columns, "features"])
    if table.num_rows != shard.features:
        raise Damaged(f"{uri} has {table.num_rows} rows, the marker says {shard.features}; extract it again")
    lists = table.column("features").combine_chunks()
    offsets = np.from_dlpack(lists.offsets)
    lengths = np.diff(offsets)
    if (lengths != width).any():
        row = int(np.flatnonzero(lengths != width)[0])
        raise Damaged(f"{uri}: row {row} has {lengths[row]} features, expected {width}")
    flat = lists.values.slice(offsets[0], width * len(lists))
    if flat.null_count:
        flat = flat.fill_null(float("nan"))
    values = np.asarray(np.from_dlpack(flat), np.float32).reshape(-1, width)
    finite = np.isfinite(values).all(axis=1)
    if not finite.all():
        raise Damaged(f"{uri}: row {int(np.flatnonzero(~finite)[0])} has NaN or infinity")
    if info_of(table, FeaturesShard) != shard:  # the same images, but another backbone's
        raise Damaged(f"{uri} is not the shard that the marker lists; extract it again")
    return table, values


def read_ahead(
    storage: Storage, shards: Iterable[FeaturesShard], width: int, columns: tuple[str, ...] = ()
) -> Iterator[tuple[FeaturesShard, Future[tuple[pa.Table, npt.NDArray[np.float32]]]]]:
    """read_features of each shard, started while the caller still computes with the shard before.

    So the caller does not wait for an object, which takes long on S3.
    """
    with ThreadPoolExecutor(1) as reader:
        started: deque[Any] = deque()
        for shard in shards:
            started.append((shard, reader.submit(read_features, storage, shard, width, columns)))
            if len(started) > 1:
                yield started.popleft()
        yield from started
