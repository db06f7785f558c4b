"""Ways to damage an object of a run."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from image_features.contract import shard_number
from image_features.documents import unsealed
from image_features.shards import list_array, parquet_bytes
from image_features.storage import Storage

FEATURES = "features/shard-00002.parquet"

Damage = Callable[[Storage, str], None]


def delete(storage: Storage, key: str) -> None:
    storage.delete([key])


def cut(storage: Storage, key: str) -> None:
    """Only the first half is left."""
    data = storage.get(key).to_pybytes()
    storage.put(key, data[: len(data) // 2])


def flip(storage: Storage, key: str) -> None:
    """One bit in the middle: of a shard, of its last column's values."""
    data = bytearray(storage.get(key).to_pybytes())
    middle = len(data) // 2
    if key.endswith(".parquet"):  # much of a small one is footer, where a bit may say nothing
        rows = pq.read_metadata(pa.BufferReader(bytes(data))).row_group(0)
        values = rows.column(rows.num_columns - 1)
        middle = values.data_page_offset + values.total_compressed_size // 2
    data[middle] ^= 1
    storage.put(key, bytes(data))


def without_label(storage: Storage, key: str) -> None:
    table = _read(storage, key)
    storage.put(key, parquet_bytes(table.drop_columns(["label"])))


def as_float64(storage: Storage, key: str) -> None:
    table = _read(storage, key)
    wide = table.column("features").cast(pa.list_(pa.float64()))
    storage.put(key, parquet_bytes(table.set_column(3, "features", wide)))


def with_nan(storage: Storage, key: str) -> None:
    table, features = _features(storage, key)
    features[1, 7] = np.nan
    storage.put(key, parquet_bytes(table.set_column(3, table.schema.field("features"), list_array(features))))


def other_backbone(storage: Storage, key: str) -> None:
    """The same rows with other features, as another backbone of the same width makes them."""
    table, features = _features(storage, key)
    info = json.loads(table.schema.metadata[b"image_features"])
    info["fingerprint"] = "0" * 64
    table = table.set_column(3, table.schema.field("features"), list_array(features[:, ::-1]))
    storage.put(key, parquet_bytes(table.replace_schema_metadata({"image_features": json.dumps(info)})))


def double(storage: Storage, key: str) -> None:
    """``key`` is a copy of another shard."""
    storage.put(key, storage.get(FEATURES))


def without_last_row(storage: Storage, key: str) -> None:
    table = _read(storage, key)
    storage.put(key, parquet_bytes(table.slice(0, len(table) - 1)))


def delete_all(storage: Storage, key: str) -> None:
    """All shards below a folder."""
    storage.delete([obj.key for obj in storage.list(key) if shard_number(obj.key) is not None])


def older(storage: Storage, key: str) -> None:
    """As a marker of another release has it."""
    values = unsealed(storage.get(key).to_pybytes(), key, "a marker")
    storage.put(key, json.dumps({**values, "schema_version": 1}).encode())


def _read(storage: Storage, key: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(storage.get(key)))


def _features(storage: Storage, key: str) -> tuple[pa.Table, np.ndarray]:
    table = _read(storage, key)
    return table, np.stack(table.column("features").to_numpy())
