"""Deletes the temporary data of a run (sample, code, logs), or with --everything all of it.

shows what goes, with its bytes, and deletes it with --yes. A key alone means a run in
FRUITS_BUCKET. Features, rejects, embeddings and summary.json stay, unless --everything is given.
A run that is alive is refused: one with a living cluster, or one that has written something in
the last hour and not summed it up. In a bucket with versioning, what is deleted still costs until
the bucket's lifecycle rules take the old versions.
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
_KEYS_A_REQUEST = 1_000


@dataclass(frozen=True)
class Folder:
    objects: int
    bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What goes, or went, of one run; ``keys`` in the order of deletion."""

    run: str
    objects: int
    bytes: int
    folders: dict[str, Folder]
    keys: list[str] = field(repr=False)

    def figures(self) -> dict[str, Any]:
        """All but the keys, as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "keys"}


def plan(s3: Any, emr: Any, bucket: str, run_key: str, *, everything: bool = False) -> Cleaning:
    """What cleaning a run would delete. Raises JobError when it has nothing, or is alive."""
    root = f"{RUNS}/{run_key}"
    uri = f"s3://{bucket}/{root}"
    objects = list(objects_of(s3, bucket, root))
    if not objects:
        raise JobError(f"{uri} holds nothing; is the run's key right?")
    _refuse_the_living(emr, run_key)
    if run_of(run_key, objects).at_work(clock.server_time(s3.head_bucket(Bucket=bucket))):
        raise JobError(
            f"{uri} was written to in the last hour and has no {SUMMARY} of that: the run may be "
            "alive; try again later"
        )
    going = [found for found in objects if everything or found.folder in TEMPORARY]
    # Markers first: what is half deleted must not look whole.
    going.sort(key=lambda found: found.name.rpartition("/")[2] not in (MARKER, SUMMARY))
    folders: dict[str, Folder] = {}
    for found in going:
        so_far = folders.get(found.folder, Folder(0, 0))
        folders[found.folder] = Folder(so_far.objects + 1, so_far.bytes + found.size)
    size = sum(found.size for found in going)
    return Cleaning(uri, len(going), size, dict(sorted(folders.items())), [found.key for found in going])


def _refuse_the_living(emr: Any, run_key: str) -> None:
    alive = [cluster.id for cluster in clusters_of_run(emr, run_key, terminating=True)]
    if alive:
        raise JobError(f"run {run_key} is alive: cluster {', '.join(alive)} works on it")


def delete(s3: Any, bucket: str, keys: Sequence[str]) -> None:
    """Delete objects, in this order. Raises StorageError for the first that could not be."""
    for at in range(0, len(keys), _KEYS_A_REQUEST):
        batch = [{"Key": key} for key in keys[at : at + _KEYS_A_REQUEST]]
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True})
        for error in answer.get("Errors", []):
            raise StorageError(f"cannot delete s3://{bucket}/{error['Key']}: {error.get('Message')}")


def clean_by_age(s3: Any, emr: Any, bucket: str, days: int, now: datetime) -> list[Cleaning]:
    """Delete the temporary data of finished runs, and of notebook clusters, untouched for ``days`` days.

    Runs without a summary.json keep theirs, which they need to be resumed; the cost report names
    them. One that is alive after all is left for the next time.
    """
    done = []
    for run in runs_of(s3, bucket):
        old = run.untouched_for(now) > timedelta(days=days)
        if not (old and run.ended and run.temporary_objects):
            continue
        try:
            cleaning = plan(s3, emr, bucket, run.key)
            delete(s3, bucket, cleaning.keys)
        except JobError as error:  # the other runs are cleaned all the same
            log.warning("left alone: %s", error)
            continue
        log.info("%s: deleted %d objects, %d bytes", cleaning.run, cleaning.objects, cleaning.bytes)
        done.append(cleaning)
    return done


def locate(run: str, default_bucket: str | None) -> tuple[str, str]:
    """Bucket and key of a run, given by its key or its URI. Raises JobError for neither."""
    bucket, key = default_bucket or "", run.rstrip("/")
    if key.startswith("s3://"):
        bucket, _, path = key.removeprefix("s3://").partition("/")
        folder, _, key = path.rpartition("/")
        if folder != RUNS:
            raise JobError(f"{run} is no run; expected s3://<bucket>/{RUNS}/<run key>")
    if not bucket:
        raise JobError("no bucket: give the run as s3://<bucket>/runs/<run key>, or set FRUITS_BUCKET")
    if not key or "/" in key:
        raise JobError(f"{run!r} is no run key; give the key alone, or s3://<bucket>/{RUNS}/<run key>")
    return bucket, key
