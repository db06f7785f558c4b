"""Clean-up of a run's prefix: its temporary data (sample, code, logs), or everything.

A run that is active is refused: one with a living cluster, or one that wrote something in the last hour and
has no summary of it. In a bucket with versioning, deleted objects cost money until lifecycle rules expire the
old versions.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fruit_pipeline.aws import clock
from fruit_pipeline.aws.clusters import clusters_of_run
from fruit_pipeline.housekeeping.stored_runs import RUNS, TEMPORARY, objects_of, run_of, runs_of
from image_features.contract import MARKER, SUMMARY
from image_features.errors import JobError, StorageError

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
_KEYS_PER_REQUEST = 1_000


@dataclass(frozen=True)
class Folder:
    """Number and bytes of the objects of one folder that are deleted."""

    objects: int
    bytes: int


@dataclass(frozen=True)
class Cleaning:
    """The objects of one run that are deleted; ``keys`` in the order of deletion."""

    run: str
    objects: int
    bytes: int
    folders: dict[str, Folder]
    keys: list[str] = field(repr=False)

    def figures(self) -> dict[str, Any]:
        """All fields but the keys, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "keys"}


def plan(s3: Any, emr: Any, bucket: str, run_key: str, *, everything: bool = False) -> Cleaning:
    """What the clean-up of a run would delete. Raises JobError if the run has no objects, or is active."""
    root = f"{RUNS}/{run_key}"
    uri = f"s3://{bucket}/{root}"
    objects = list(objects_of(s3, bucket, root))
    if not objects:
        raise JobError(f"{uri} holds nothing; is the run's key right?")
    _check_no_cluster(emr, run_key)
    if run_of(run_key, objects).is_active(clock.server_time(s3.head_bucket(Bucket=bucket))):
        raise JobError(
            f"{uri} was written to in the last hour and has no later {SUMMARY}: the run may be active; try "
            "again later"
        )
    deleted = [item for item in objects if everything or item.folder in TEMPORARY]
    # Markers first, so that a stage that is deleted in part does not look complete.
    deleted.sort(key=lambda item: item.name.rpartition("/")[2] not in (MARKER, SUMMARY))
    folders: dict[str, Folder] = {}
    for item in deleted:
        so_far = folders.get(item.folder, Folder(0, 0))
        folders[item.folder] = Folder(so_far.objects + 1, so_far.bytes + item.size)
    size = sum(item.size for item in deleted)
    return Cleaning(uri, len(deleted), size, dict(sorted(folders.items())), [item.key for item in deleted])


def _check_no_cluster(emr: Any, run_key: str) -> None:
    alive = [cluster.id for cluster in clusters_of_run(emr, run_key, terminating=True)]
    if alive:
        raise JobError(f"run {run_key} is active: cluster {', '.join(alive)} works on it")


def delete(s3: Any, bucket: str, keys: Sequence[str]) -> None:
    """Delete objects in this order. Raises StorageError for the first that cannot be deleted."""
    for at in range(0, len(keys), _KEYS_PER_REQUEST):
        batch = [{"Key": key} for key in keys[at : at + _KEYS_PER_REQUEST]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for error in answer.get("Errors", []):
            raise StorageError(f"cannot delete s3://{bucket}/{error['Key']}: {error.get('Message')}")


def clean_by_age(s3: Any, emr: Any, bucket: str, days: int, now: datetime) -> list[Cleaning]:
    """Delete the temporary data of finished runs, and of notebook clusters, untouched for ``days`` days.

    Runs without a summary.json keep theirs, because resuming them needs it; the cost report lists them. A run
    that is active is skipped until the next clean-up.
    """
    cleaned = []
    for run in runs_of(s3, bucket):
        old = run.untouched_for(now) > timedelta(days=days)
        if not (old and run.ended and run.temporary_objects):
            continue
        try:
            cleaning = plan(s3, emr, bucket, run.key)
            delete(s3, bucket, cleaning.keys)
        except JobError as error:  # the other runs must still be cleaned
            log.warning("not cleaned: %s", error)
            continue
        log.info("%s: deleted %d objects, %d bytes", cleaning.run, cleaning.objects, cleaning.bytes)
        cleaned.append(cleaning)
    return cleaned


def locate(run: str, default_bucket: str | None) -> tuple[str, str]:
    """Bucket and key of a run, which is given by its key or its URI. Raises JobError for anything else."""
    bucket, key = default_bucket or "", run.rstrip("/")
    if key.startswith("s3://"):
        bucket, _, path = key.removeprefix("s3://").partition("/")
        folder, _, key = path.rpartition("/")
        if folder != RUNS:
            raise JobError(f"{run} is not a run; expected s3://<bucket>/{RUNS}/<run key>")
    if not bucket:
        raise JobError("no bucket: give the run as s3://<bucket>/runs/<run key>, or set FRUITS_BUCKET")
    if not key or "/" in key:
        raise JobError(f"{run!r} is not a run key; give the key alone, or s3://<bucket>/{RUNS}/<run key>")
    return bucket, key
