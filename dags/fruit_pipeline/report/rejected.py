"""The images of a run that have no features, and why."""

from __future__ import annotations

from dataclasses import dataclass

from image_features.contract import REJECTS_SCHEMA, FeaturesMarker, RejectReason, shard_key
from image_features.shards import read_shard
from image_features.storage import Storage

PER_REASON = 20
"""Most rejects that a report shows for each reason; the others are only counted."""

MEANINGS = {
    RejectReason.EMPTY: "The file has no bytes.",
    RejectReason.NOT_AN_IMAGE: "No decoder knows the format.",
    RejectReason.TRUNCATED: "The file ends before the image does.",
    RejectReason.TOO_MANY_PIXELS: "More pixels than the run's limit; it was not decoded.",
    RejectReason.UNSUPPORTED_MODE: "Pixels that have no agreed way to 8-bit RGB.",
    RejectReason.DECODE_ERROR: "The decoder refused it for another reason.",
}


@dataclass(frozen=True)
class Reject:
    """One rejected image."""

    image: str
    label: str
    reason: str
    detail: str
    shard: int


def read(storage: Storage, marker: FeaturesMarker, per_reason: int = PER_REASON) -> list[Reject]:
    """The first ``per_reason`` rejects of each reason, in order of the reasons; reads only as many shards."""
    rejects: dict[str, list[Reject]] = {reason: [] for reason in sorted(marker.rejects_by_reason)}
    for shard in marker.shards:
        if all(len(rejects.get(reason, ())) >= per_reason for reason in shard.rejects):
            continue
        table = read_shard(storage, shard_key(shard.shard), REJECTS_SCHEMA)
        columns = (table.column(name).to_pylist() for name in ("image", "label", "reason", "detail"))
        for image, label, reason, detail in zip(*columns, strict=True):
            rows = rejects.setdefault(reason, [])
            if len(rows) < per_reason:
                rows.append(Reject(image, label, reason, detail, shard.shard))
    return [reject for rows in rejects.values() for reject in rows]


def meaning(reason: str) -> str:
    """A sentence about a reason; "" for a reason of another release."""
    return MEANINGS.get(RejectReason(reason), "") if reason in set(RejectReason) else ""
