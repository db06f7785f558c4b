"""Reads and writes the shards of the contract: parquet objects with their counts in the metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from image_features.contract import (
    EMBEDDINGS_SCHEMA,
    FEATURES_SCHEMA,
    LEFT_OUT_SCHEMA,
    LISTED_SCHEMA,
    REJECTS_SCHEMA,
    REUSED_SCHEMA,
    SAMPLE_SCHEMA,
    EmbeddingsShard,
    FeaturesShard,
    SampleShard,
    shard_key,
    shard_number,
)
from image_features.errors import Damaged, Stage, first_line, read_again, reading
from image_features.storage import Storage

_METADATA_KEY = "image_features"

_STAGES = {
    SAMPLE_SCHEMA: Stage.SAMPLE,
    LISTED_SCHEMA: Stage.SAMPLE,
    LEFT_OUT_SCHEMA: Stage.SAMPLE,
    FEATURES_SCHEMA: Stage.FEATURES,
    REJECTS_SCHEMA: Stage.FEATURES,
    REUSED_SCHEMA: Stage.FEATURES,
    EMBEDDINGS_SCHEMA: Stage.PCA,
}
"""Which stage writes the shards of a schema."""

Info = TypeVar("Info", SampleShard, FeaturesShard, EmbeddingsShard)


def write_shard(
    storage: Storage,
    schema: pa.Schema,
    columns: dict[str, Any],
    info: SampleShard | FeaturesShard | EmbeddingsShard,
) -> None:
    """Write one shard object, with ``info`` in its metadata."""
    table = pa.table(columns, schema=schema.with_metadata({_METADATA_KEY: json.dumps(asdict(info))}))
    storage.put(shard_key(info.shard), parquet_bytes(table))


def list_array(rows: npt.NDArray[np.float32]) -> pa.ListArray:
    """An array (n, k) as n lists of k floats; shares the array's memory when that is contiguous.

    It is built from buffers, because pyarrow's own conversion imports pandas where it is installed.
    """
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1])
    flat = pa.py_buffer(np.ascontiguousarray(rows, np.float32))
    values = pa.Array.from_buffers(pa.float32(), rows.size, [None, flat])
    buffers = [None, pa.py_buffer(offsets)]
    return pa.Array.from_buffers(pa.list_(pa.float32()), len(rows), buffers, children=[values])


def parquet_bytes(table: pa.Table) -> pa.Buffer:
    """Encode a table. Floats and image bytes get no dictionary, which would only make them larger.

    Each page has a checksum: parquet omits zstd's own, so a flipped bit would go unnoticed otherwise.
    """
    sink = pa.BufferOutputStream()
    dictionary = [name for name in ("label", "reason") if name in table.column_names]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=dictionary,
        write_page_checksum=True,
    )
    return sink.getvalue()


def shard_info(metadata: dict[str, str], kind: type[Info]) -> Info | None:
    """The ``info`` that write_shard put into a shard's metadata; None when there is none."""
    try:
        return kind(**json.loads(metadata[_METADATA_KEY]))
    except (KeyError, ValueError, TypeError):
        return None


def info_of(table: pa.Table, kind: type[Info]) -> Info | None:
    """shard_info of a table that read_shard has read."""
    metadata = table.schema.metadata or {}
    return shard_info({key.decode(): value.decode(errors="replace") for key, value in metadata.items()}, kind)


@read_again
def read_shard(storage: Storage, key: str, schema: pa.Schema, columns: list[str] | None = None) -> pa.Table:
    """Read a shard, or some of its columns. Raises Damaged, or NotFound, that names the object.

    Damaged is: no whole parquet file, pages with a wrong checksum, columns other than the schema's.
    """
    with reading(_STAGES.get(schema)):
        return _table_of(storage.get(key), storage.uri_of(key), schema, columns)


def _table_of(data: pa.Buffer, uri: str, schema: pa.Schema, columns: list[str] | None) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        fields = file.schema_arrow
        for name in schema.names:
            if name not in fields.names:
                raise Damaged(f"{uri} has no column {name!r}; found {', '.join(fields.names)}")
            if fields.field(name).type != schema.field(name).type:
                raise Damaged(
                    f"{uri}: column {name!r} is {fields.field(name).type}, expected {schema.field(name).type}"
                )
        table = file.read(columns=columns, use_threads=False)
        table.validate(full=True)  # text must be UTF-8: reading a value would fail much later otherwise
    except MemoryError:  # Arrow's is an ArrowException too, but the object is not damaged
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(f"{uri} cannot be read as parquet: {first_line(error)}") from error
    for name in table.column_names:
        if table.column(name).null_count:
            raise Damaged(f"{uri}: column {name!r} has {table.column(name).null_count} nulls")
    return table


def delete_strays(storage: Storage, keys: Iterable[str], expected: set[int]) -> None:
    """Delete those of ``keys`` that are shards but not ``expected``: readers must not count them.

    Objects in a folder below the prefix belong to another stage and are kept.
    """
    numbers = {key: shard_number(key) for key in keys if "/" not in key}
    storage.delete(key for key, number in numbers.items() if number is not None and number not in expected)
