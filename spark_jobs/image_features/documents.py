"""Reads and writes the JSON documents of the contract: markers and model.json."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, TypeVar

from image_features.contract import (
    MARKER,
    SCHEMA_VERSION,
    BackboneSpec,
    EmbeddingsShard,
    FeaturesMarker,
    FeaturesShard,
    LeftOut,
    PcaMarker,
    SampleMarker,
    SampleShard,
)
from image_features.errors import Damaged, JobError, Stage, StorageError, read_again
from image_features.storage import Storage

Document = TypeVar("Document", SampleMarker, FeaturesMarker, PcaMarker, BackboneSpec)

_STAGES: dict[type, Stage] = {
    SampleMarker: Stage.SAMPLE,
    FeaturesMarker: Stage.FEATURES,
    PcaMarker: Stage.PCA,
    BackboneSpec: Stage.MODEL,
}

_SHARD_TYPES: dict[type, type] = {
    SampleMarker: SampleShard,
    FeaturesMarker: FeaturesShard,
    PcaMarker: EmbeddingsShard,
}


def to_json(document: SampleMarker | FeaturesMarker | PcaMarker | BackboneSpec) -> bytes:
    return json.dumps(asdict(document), indent=1, ensure_ascii=False).encode()


def from_json(kind: type[Document], text: bytes, uri: str) -> Document:
    """Parse a marker or model.json. Raises JobError for another schema version, Damaged if it is neither."""
    stage = _STAGES[kind]
    try:
        values: Any = json.loads(text)
        version = values["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{uri} is not a {kind.__name__}: no JSON object with a schema_version", stage=stage
        ) from error
    if version != SCHEMA_VERSION:
        raise JobError(
            f"{uri} has schema version {version}, this code reads {SCHEMA_VERSION}; "
            "run the earlier stage again, under another run key",
            stage=stage,
        )
    try:
        if kind in _SHARD_TYPES:
            values["shards"] = [_SHARD_TYPES[kind](**shard) for shard in values["shards"]]
        if kind is SampleMarker:
            values["left_out"] = [LeftOut(**row) for row in values.get("left_out", [])]
        return kind(**values)
    except (TypeError, KeyError) as error:
        expected = ", ".join(f.name for f in fields(kind))
        raise Damaged(f"{uri} is not a {kind.__name__} (fields {expected}): {error}", stage=stage) from error


@read_again
def read_document(kind: type[Document], storage: Storage, key: str = MARKER) -> Document:
    """Read a marker or model.json below ``storage``. Raises JobError if it is missing, else as from_json."""
    data = storage.get_or_none(key)
    if data is None:
        if key == MARKER:
            raise JobError(
                f"{storage.uri} has no {MARKER}: the stage that writes it has not finished; run it first"
            )
        raise JobError(f"{storage.uri_of(key)} does not exist")
    return from_json(kind, data.to_pybytes(), storage.uri_of(key))


@read_again
def find_document(kind: type[Document], storage: Storage, key: str = MARKER) -> Document | None:
    """Like read_document, but returns None when the object is missing."""
    data = storage.get_or_none(key)
    return None if data is None else from_json(kind, data.to_pybytes(), storage.uri_of(key))


def own_marker(kind: type[Document], storage: Storage) -> Document | None:
    """The calling stage's own marker, of an earlier attempt; None when it is missing or cannot be used.

    A marker that is damaged or has another schema version cannot be used: the stage then checks its shards
    and writes a new marker.
    """
    try:
        return find_document(kind, storage)
    except StorageError:
        raise
    except JobError:
        return None


def withdraw(*storages: Storage) -> str:
    """Delete the markers of damaged prefixes, and return the end of an error message that says so.

    Readers then treat the prefixes as unfinished, and a rerun writes the damaged shards again.
    """
    names = " and ".join(storage.uri.rpartition("/")[2] for storage in storages)
    try:
        for storage in storages:
            storage.delete([MARKER])
    except StorageError as error:
        return f"; {MARKER} of {names} could not be deleted; delete it, then run again: {error}"
    return f"; {MARKER} of {names} was deleted: a run with the same key rewrites what is damaged"
