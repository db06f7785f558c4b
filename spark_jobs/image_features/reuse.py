"""Reuses the features of an earlier run, for images with the same SHA-256.

The same bytes, backbone, preprocessing and versions of decoder and runtime give the same features, so
they are taken over unchanged. Images that the earlier run rejected are decoded again, which costs next
to nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from image_features.contract import BackboneSpec, FeaturesMarker, FeaturesShard, RunLayout, shard_key
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.features import read_features
from image_features.shards import shard_info
from image_features.storage import Storage, normalise_uri


@dataclass(frozen=True)
class ReusedFeatures:
    """Features that are taken over for some images of a list."""

    positions: list[int]  # in that list
    features: npt.NDArray[np.float32]  # (positions, width)
    origins: list[str]  # URI of the features shard that each came from


@dataclass(frozen=True)
class EarlierRun:
    """Index of an earlier run's features: 16 bytes for each image, sent to the workers once."""

    uri: str  # of the features
    width: int
    shards: dict[int, FeaturesShard]
    keys: npt.NDArray[np.uint64]  # first 8 bytes of each image's SHA-256, sorted
    places: npt.NDArray[np.int32]  # (images, 2): shard and row

    def find(self, sha256: Sequence[str]) -> ReusedFeatures:
        """Read the features of those images, given by their SHA-256 (hex), that the earlier run has.

        Raises Damaged that names the shard when one is damaged.
        """
        wanted = np.array([_key(digest) for digest in sha256], np.uint64)
        at = np.searchsorted(self.keys, wanted)
        at[at == len(self.keys)] = 0
        hits = np.flatnonzero(self.keys[at] == wanted) if len(self.keys) else np.empty(0, np.intp)
        places = self.places[at[hits]] if len(hits) else np.empty((0, 2), np.int32)
        storage = Storage(self.uri)
        positions: list[int] = []
        parts: list[npt.NDArray[np.float32]] = []
        origins: list[str] = []
        for number in np.unique(places[:, 0]):
            shard = self.shards[int(number)]
            table, features = read_features(storage, shard, self.width, ("sha256",))
            theirs = table.column("sha256").to_pylist()
            in_shard = places[:, 0] == number
            same = [
                (position, row)
                for position, row in zip(hits[in_shard].tolist(), places[in_shard, 1].tolist(), strict=True)
                if theirs[row] == sha256[position]  # the first eight bytes may agree by chance
            ]
            positions += [position for position, _ in same]
            parts.append(features[[row for _, row in same]])
            origins += [storage.uri_of(shard_key(shard.shard))] * len(same)
        values = np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)
        return ReusedFeatures(positions, values, origins)


def check(run: str, spec: BackboneSpec, preprocessing: str, storage: Storage | None = None) -> FeaturesMarker:
    """The marker of an earlier run's features; ``run`` is the run's URI.

    Raises JobError when the features cannot be taken over: they are unfinished, or of another schema,
    backbone or preprocessing.
    """
    storage = storage or Storage(features_of(run))
    marker = read_document(FeaturesMarker, storage)
    difference = None
    if marker.model_digest != spec.digest:
        theirs, own = _description(marker, marker.model_digest), _description(spec, spec.digest)
        difference = f"backbone is {theirs}, this run's is {own}"
    elif marker.preprocessing != preprocessing:
        difference = f"preprocessing is {marker.preprocessing!r}, this run's is {preprocessing!r}"
    if difference:
        raise JobError(
            f"{storage.uri} cannot be reused: its {difference}; "
            "ask for the same, or leave out the earlier run"
        )
    return marker


def same_runtime(marker: FeaturesMarker, runtime: str) -> bool:
    """Whether an earlier run's features equal those that this node computes; prints why when they do not.

    That is no error: after an upgrade of the nodes all images are computed, which is correct but costs more.
    """
    if marker.runtime == runtime:
        return True
    print(
        f"nothing is reused: the earlier run was made with {marker.runtime or 'unknown versions'}, "
        f"these nodes have {runtime}; all images are computed",
        file=sys.stderr,
        flush=True,
    )
    return False


def features_of(run: str) -> str:
    """URI of a run's features."""
    return RunLayout(normalise_uri(run)).features


def _description(model: BackboneSpec | FeaturesMarker, digest: str) -> str:
    return f"{model.backbone} {model.weights} {digest}"


def index(spark: Any, run: str, marker: FeaturesMarker) -> EarlierRun:
    """Read the digests of an earlier run's images, in Spark tasks of several shards."""
    uri = features_of(run)
    context = spark.sparkContext
    shards = [shard for shard in marker.shards if shard.features]
    digests: list[_Digests | str] = (
        context.parallelize(shards, max(1, min(len(shards), 2 * context.defaultParallelism)))
        .mapPartitions(lambda part: _digests_of(part, uri))
        .collect()
    )
    keys, places = [np.empty(0, np.uint64)], [np.empty((0, 2), np.int32)]
    for part in digests:
        if isinstance(part, str):
            raise JobError(part)
        rows = np.arange(len(part.keys), dtype=np.int32)
        keys.append(part.keys)
        places.append(np.stack([np.full_like(rows, part.shard), rows], axis=1))
    every = np.concatenate(keys)
    order = np.argsort(every, kind="stable")
    by_number = {shard.shard: shard for shard in shards}
    return EarlierRun(uri, marker.width, by_number, every[order], np.concatenate(places)[order])


@dataclass(frozen=True)
class _Digests:
    shard: int
    keys: npt.NDArray[np.uint64]


def _digests_of(shards: Iterator[FeaturesShard], uri: str) -> Iterator[_Digests | str]:
    """In a worker: the digests of some shards, of which only that column is read; a JobError as its text."""
    storage = Storage(uri)
    for shard in shards:
        key = shard_key(shard.shard)
        try:
            try:
                with storage.open(key) as opened:
                    file = pq.ParquetFile(opened)
                    metadata = {k.decode(): v.decode() for k, v in (file.metadata.metadata or {}).items()}
                    column = file.read(columns=["sha256"]).column("sha256").to_pylist()
            except (pa.ArrowException, ValueError) as error:
                raise JobError(f"{storage.uri_of(key)} cannot be read as parquet: {error}") from error
            if shard_info(metadata, FeaturesShard) != shard or len(column) != shard.features:
                raise JobError(
                    f"{storage.uri_of(key)} is not the shard that its marker lists; it cannot be reused"
                )
            yield _Digests(shard.shard, np.array([_key(digest) for digest in column], np.uint64))
        except JobError as error:
            yield str(error)


def _key(sha256: str) -> int:
    return int(sha256[:16], 16)
