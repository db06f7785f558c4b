"""Reads and writes the JSON documents of the contract: markers, model.json and the summaries.

Each holds a checksum of its values, so a reader never takes a changed value for the one that was written. A
document of an older release has none, and is read without that check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    PcaSummary,
    SampleMarker,
    SampleShard,
)
from image_features.errors import Damaged, JobError, NotFound, Stage, StorageError, read_again, reading
from image_features.storage import Storage

Document = TypeVar("Document", SampleMarker, FeaturesMarker, PcaMarker, PcaSummary, BackboneSpec)

_CHECKSUM = "checksum"

_STAGES: dict[type, Stage] = {
    SampleMarker: Stage.SAMPLE,
    FeaturesMarker: Stage.FEATURES,
    PcaMarker: Stage.PCA,
    PcaSummary: Stage.PCA,
    BackboneSpec: Stage.MODEL,
}

_SHARD_TYPES: dict[type, type] = {
    SampleMarker: SampleShard,
    FeaturesMarker: FeaturesShard,
    PcaMarker: EmbeddingsShard,
}


def sealed(values: Mapping[str, Any]) -> bytes:
    """JSON of a document's values and, as the last one, their checksum."""
    plain = json.loads(json.dumps(values))  # the values that a reader will get
    return json.dumps({**plain, _CHECKSUM: _checksum_of(plain)}, indent=1, ensure_ascii=False).encode()


def unsealed(text: bytes, uri: str, expected: str) -> dict[str, Any]:
    """The values of ``sealed``, without their checksum; ``expected``: what they describe, for the message.

    Raises Damaged that names ``uri`` when they are no JSON object, or not the values that were written.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{uri} is not {expected}: no JSON object, {error}") from error
    if not isinstance(values, dict):
        raise Damaged(f"{uri} is not {expected}: no JSON object")
    checksum = values.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum_of(values):
        raise Damaged(f"{uri} is not {expected} as it was written: its checksum is not that of its values")
    return values


def _checksum_of(values: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of plain values; layout and order of the JSON do not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def to_json(document: SampleMarker | FeaturesMarker | PcaMarker | PcaSummary | BackboneSpec) -> bytes:
    return sealed(asdict(document))


def from_json(kind: type[Document], text: bytes, uri: str) -> Document:
    """Inverse of to_json. Raises JobError that names ``uri`` and what was expected.

    It is Damaged when the text is not what to_json wrote, and JobError when it has another schema version.
    """
    stage = _STAGES[kind]
    with reading(stage):
        values = unsealed(text, uri, f"a {kind.__name__}")
    if "schema_version" not in values:
        raise Damaged(f"{uri} is not a {kind.__name__}: it has no schema_version", stage=stage)
    if (version := values["schema_version"]) != SCHEMA_VERSION:
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


def own_document(kind: type[Document], storage: Storage, key: str = MARKER) -> Document | None:
    """The calling stage's own document, of an earlier attempt; None when it is missing or cannot be used.

    One that is damaged or has another schema version cannot be used: the stage then checks its shards and
    writes a new one.
    """
    try:
        return find_document(kind, storage, key)
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


@contextmanager
def withdrawing(prefixes: Mapping[Stage, Storage]) -> Iterator[None]:
    """Withdraw the prefix of the stage whose output proves damaged or missing in the block.

    The error says so, and is raised on. Output of stages that are not in ``prefixes`` is left alone.
    """
    try:
        yield
    except (Damaged, NotFound) as error:
        if error.stage is None or error.stage not in prefixes:
            raise
        raise type(error)(f"{error}{withdraw(prefixes[error.stage])}", stage=error.stage) from error
