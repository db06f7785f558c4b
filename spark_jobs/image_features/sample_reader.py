"""Reads the images of a sample, shard by shard: from the shard itself, or from their source."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa

from image_features.contract import (
    LISTED_SCHEMA,
    SAMPLE_SCHEMA,
    SampleMarker,
    SampleShard,
    content_digest,
    shard_key,
)
from image_features.errors import Damaged, JobError, NotFound, Stage, reading
from image_features.shards import read_shard
from image_features.storage import S3Access, Storage

IN_FLIGHT = 32
"""Objects that a worker reads at the same time where the images are not packed."""


@dataclass(frozen=True)
class ShardImages:
    """The images of one shard, in its order."""

    images: list[str]
    labels: list[str]
    sha256: list[str]  # hex
    contents: Sequence[bytes | memoryview]  # may be views of one buffer


class SampleReader:
    """Reads the shards of a finished sample."""

    def __init__(self, sample: Storage, marker: SampleMarker, source: Storage | None = None) -> None:
        """``source`` reads the images of a sample that is not packed. By default it is the marker's source,
        opened with the process's own credentials."""
        self._sample = sample
        self._packed = marker.packed
        self._source = (
            source
            if source or marker.packed
            else Storage(marker.source, S3Access(request_payer=marker.requester_pays))
        )

    @reading(Stage.SAMPLE)
    def read(self, shard: SampleShard, only: Container[str] | None = None) -> ShardImages:
        """Read one shard, or only the images named in ``only``.

        Raises Damaged, or NotFound, when the shard is not the one that the marker lists, and JobError for an
        image that was changed or deleted after the sample was drawn.
        """
        return self._unpack(shard, only) if self._packed else self._fetch(shard, only)

    def _unpack(self, shard: SampleShard, only: Container[str] | None) -> ShardImages:
        table = read_shard(self._sample, shard_key(shard.shard), SAMPLE_SCHEMA)
        images, labels, sha256 = (table.column(name).to_pylist() for name in ("image", "label", "sha256"))
        contents = _views(table.column("content"))
        digests = [hashlib.sha256(content).hexdigest() for content in contents]
        if digests != sha256 or content_digest(images, labels, sha256) != shard.digest:
            raise self._mismatch(shard)
        if only is not None:
            rows = [n for n, image in enumerate(images) if image in only]
            images, labels, sha256, contents = (
                [values[n] for n in rows] for values in (images, labels, sha256, contents)
            )
        return ShardImages(images, labels, sha256, contents)

    def _fetch(self, shard: SampleShard, only: Container[str] | None) -> ShardImages:
        table = read_shard(self._sample, shard_key(shard.shard), LISTED_SCHEMA)
        images, labels, sizes, versions = (table.column(name).to_pylist() for name in LISTED_SCHEMA.names)
        if listed_digest(images, labels, sizes, versions) != shard.digest:
            raise self._mismatch(shard)
        if only is not None:
            rows = [n for n, image in enumerate(images) if image in only]
            images, labels, sizes, versions = (
                [values[n] for n in rows] for values in (images, labels, sizes, versions)
            )
        with ThreadPoolExecutor(IN_FLIGHT) as readers:
            contents = list(readers.map(self._read_image, images, sizes, versions))
        return ShardImages(images, labels, [hashlib.sha256(c).hexdigest() for c in contents], contents)

    def _read_image(self, image: str, size: int, version: str) -> memoryview:
        assert self._source is not None
        if not size:  # it may be a folder of the S3 console, whose key ends in a slash and cannot be read
            return memoryview(b"")
        try:
            content, current_version = self._source.get_versioned(image)
        except NotFound as error:
            raise JobError(
                f"{self._source.uri_of(image)} has been deleted since the sample was drawn; "
                "draw it again, under another run key"
            ) from error
        if (content.size, current_version) != (size, version):
            raise JobError(
                f"{self._source.uri_of(image)} has been changed since the sample was drawn; "
                "draw it again, under another run key"
            )
        return memoryview(content).cast("B")

    def _mismatch(self, shard: SampleShard) -> Damaged:
        uri = self._sample.uri_of(shard_key(shard.shard))
        return Damaged(f"{uri} is not the shard that the sample's marker lists; draw it again")


def listed_digest(
    images: Sequence[str], labels: Sequence[str], sizes: Sequence[int], versions: Sequence[str]
) -> str:
    """content_digest of images that are listed and not read: size and version identify the bytes."""
    return content_digest(images, labels, [f"{n} {v}" for n, v in zip(sizes, versions, strict=True)])


def _views(column: pa.ChunkedArray) -> list[memoryview]:
    """Each value of a binary column as a view of Arrow's memory, so that no image is copied."""
    views: list[memoryview] = []
    for chunk in column.chunks:
        _, offsets, data = chunk.buffers()
        bounds = memoryview(offsets).cast("B").cast("i")[chunk.offset : chunk.offset + len(chunk) + 1]
        bytes_ = memoryview(data).cast("B") if data else memoryview(b"")
        views += [bytes_[bounds[n] : bounds[n + 1]] for n in range(len(chunk))]
    return views
