"""The manifest of a sample, written and read shard by shard, and digests that do not depend on the shards.

Memory grows with the number of images only by the manifest's compressed bytes, about 50 an image.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from image_features.contract import MANIFEST, MANIFEST_SCHEMA, digest_of
from image_features.errors import Damaged, Stage, reading
from image_features.storage import Storage

Identity = tuple[str, str, str]
"""Image, label, SHA-256."""

COLUMNS = ("image", "label", "sha256")

_ROWS = 50_000  # in memory at a time


def identities_of(table: pa.Table) -> list[Identity]:
    """The identities of a table's rows; the table may have other columns as well."""
    return list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))


class ManifestWriter:
    """Writes the manifest in row groups; in memory are its compressed bytes and the last rows."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["label"]}
        options["write_page_checksum"] = True
        self._writer = pq.ParquetWriter(self._sink, MANIFEST_SCHEMA, **options)
        self._rows: dict[str, list[Any]] = {name: [] for name in MANIFEST_SCHEMA.names}

    def add(self, shard: int, rows: Mapping[str, Sequence[Any]]) -> None:
        """Add a shard's rows: the columns of MANIFEST_SCHEMA except ``shard``. Shards come in order."""
        for name, values in rows.items():
            self._rows[name].extend(values)
        self._rows["shard"].extend([shard] * len(rows["image"]))
        if len(self._rows["image"]) >= _ROWS:
            self._flush()

    def put(self, storage: Storage) -> str:
        """Write the whole manifest below ``storage``; return its SHA-256 (hex), which the marker keeps."""
        if self._rows["image"]:
            self._flush()
        self._writer.close()
        content = self._sink.getvalue()
        storage.put(MANIFEST, content)
        return hashlib.sha256(content).hexdigest()

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._rows, schema=MANIFEST_SCHEMA))
        for values in self._rows.values():
            values.clear()


class Manifest:
    """Reads the manifest shard by shard."""

    def __init__(self, storage: Storage, digest: str = "") -> None:
        """``digest``: its SHA-256 from the sample's marker; "" of an older release, which checks none.

        Raises NotFound when it is missing, Damaged when it is not the one with this digest, or no manifest.
        """
        self._uri = storage.uri_of(MANIFEST)
        with reading(Stage.SAMPLE):
            data = storage.get(MANIFEST)
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self._uri} cannot be read as parquet: {error}", stage=Stage.SAMPLE) from error
        if digest and hashlib.sha256(data).hexdigest() != digest:
            raise Damaged(f"{self._uri} is not the one that the sample's marker names", stage=Stage.SAMPLE)
        if self._file.schema_arrow.names != MANIFEST_SCHEMA.names:
            raise Damaged(f"{self._uri} has columns {self._file.schema_arrow.names}", stage=Stage.SAMPLE)
        self._groups = itertools.groupby(self._rows(), key=itemgetter(0))
        self._next = next(self._groups, None)

    def take(self, shard: int) -> list[Identity]:
        """The images of the next shard; an empty list where ``shard`` is not the next one.

        Raises Damaged when an image is listed twice, or the rows are not in order of their names.
        """
        if self._next is None or self._next[0] != shard:
            return []
        rows = [(image, label, sha256) for _, image, label, sha256 in self._next[1]]
        self._next = next(self._groups, None)
        return rows

    @property
    def next_shard(self) -> int | None:
        """Number of the next shard to take; None at the end."""
        return None if self._next is None else self._next[0]

    def _rows(self) -> Iterator[tuple[int, str, str, str]]:
        last = ""
        for batch in self._batches():
            columns = (batch.column(name).to_pylist() for name in ("shard", *COLUMNS))
            for row in zip(*columns, strict=True):
                if row[1] <= last:
                    raise Damaged(
                        f"{self._uri}: {row[1]!r} is listed twice, or out of order", stage=Stage.SAMPLE
                    )
                last = row[1]
                yield row

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._file.iter_batches(_ROWS, columns=["shard", *COLUMNS])
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self._uri} cannot be read as parquet: {error}", stage=Stage.SAMPLE) from error


class RowsDigest:
    """SHA-256 of rows that are added shard by shard; it does not depend on the shards."""

    def __init__(self) -> None:
        self._identities, self._values = hashlib.sha256(), hashlib.sha256()

    def add(self, rows: Iterable[Identity], values: npt.NDArray[np.float32] | None = None) -> None:
        """Add rows in order of the images' names, with their features (rows, width) where they have some."""
        for row in rows:
            self._identities.update(json.dumps(row).encode())
        if values is not None:
            self._values.update(np.ascontiguousarray(values, "<f4").data)

    @property
    def digest(self) -> str:
        return digest_of(self._identities.hexdigest(), self._values.hexdigest())
