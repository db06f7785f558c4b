"""Which images a run has: its manifest shard by shard, and digests that do not depend on the shards.

Nothing here grows with the images but the manifest's own compressed bytes: some 50 an image.
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

_ROWS = 50_000  # that are held at a time


def identities_of(table: pa.Table) -> list[Identity]:
    """The identities of a table's rows; it has their columns, and may have others."""
    return list(zip(*(table.column(name).to_pylist() for name in COLUMNS), strict=True))


class ManifestWriter:
    """Writes the manifest piece by piece; what is held is its compressed bytes and the last rows."""

    def __init__(self) -> None:
        self._sink = pa.BufferOutputStream()
        options: dict[str, Any] = {"compression": "zstd", "compression_level": 1, "use_dictionary": ["label"]}
        self._writer = pq.ParquetWriter(self._sink, MANIFEST_SCHEMA, **options)
        self._rows: dict[str, list[Any]] = {name: [] for name in MANIFEST_SCHEMA.names}

    def add(self, shard: int, rows: Mapping[str, Sequence[Any]]) -> None:
        """Add a shard's rows: columns of MANIFEST_SCHEMA but ``shard``; shards in order."""
        for name, values in rows.items():
            self._rows[name].extend(values)
        self._rows["shard"].extend([shard] * len(rows["image"]))
        if len(self._rows["image"]) >= _ROWS:
            self._flush()

    def put(self, storage: Storage) -> None:
        """Write the whole manifest below ``storage``."""
        if self._rows["image"]:
            self._flush()
        self._writer.close()
        storage.put(MANIFEST, self._sink.getvalue())

    def _flush(self) -> None:
        self._writer.write_table(pa.table(self._rows, schema=MANIFEST_SCHEMA))
        for values in self._rows.values():
            values.clear()


class Manifest:
    """Reads the manifest shard after shard."""

    def __init__(self, storage: Storage) -> None:
        """Raises NotFound when it is missing, Damaged when it is no manifest."""
        self._uri = storage.uri_of(MANIFEST)
        with reading(Stage.SAMPLE):
            data = storage.get(MANIFEST)
        try:
            self._file = pq.ParquetFile(pa.BufferReader(data))
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self._uri} cannot be read as parquet: {error}", stage=Stage.SAMPLE) from error
        if self._file.schema_arrow.names != MANIFEST_SCHEMA.names:
            raise Damaged(f"{self._uri} has columns {self._file.schema_arrow.names}", stage=Stage.SAMPLE)
        self._groups = itertools.groupby(self._rows(), key=itemgetter(0))
        self._ahead = next(self._groups, None)

    def take(self, shard: int) -> list[Identity]:
        """The images of a shard; ask for the shards in their order, each once.

        Raises Damaged when an image is listed twice, or the rows are not in order of their names.
        """
        if self._ahead is None or self._ahead[0] != shard:
            return []
        rows = [(image, label, sha256) for _, image, label, sha256 in self._ahead[1]]
        self._ahead = next(self._groups, None)
        return rows

    @property
    def next_shard(self) -> int | None:
        """Number of the next shard that was not taken; None when all were."""
        return None if self._ahead is None else self._ahead[0]

    def _rows(self) -> Iterator[tuple[int, str, str, str]]:
        last = ""
        for batch in self._file.iter_batches(_ROWS, columns=["shard", *COLUMNS]):
            columns = (batch.column(name).to_pylist() for name in ("shard", *COLUMNS))
            for row in zip(*columns, strict=True):
                if row[1] <= last:
                    raise Damaged(
                        f"{self._uri}: {row[1]!r} stands there twice, or out of order", stage=Stage.SAMPLE
                    )
                last = row[1]
                yield row


class RowsDigest:
    """SHA-256 of rows that come shard after shard, the same however they are cut."""

    def __init__(self) -> None:
        self._identities, self._values = hashlib.sha256(), hashlib.sha256()

    def add(self, rows: Iterable[Identity], values: npt.NDArray[np.float32] | None = None) -> None:
        """Add rows in order of the images' names, with their features (rows, width) if they have any."""
        for row in rows:
            self._identities.update(json.dumps(row).encode())
        if values is not None:
            self._values.update(np.ascontiguousarray(values, "<f4").data)

    @property
    def digest(self) -> str:
        return digest_of(self._identities.hexdigest(), self._values.hexdigest())
