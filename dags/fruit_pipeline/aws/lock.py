"""A lock of one run key, held while a DAG run looks for living clusters and makes its own.

S3 writes an object only where there is none, or only over the version that was read, when it is asked so:
of two DAG runs that come at once, one gets the lock.
https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from image_features.errors import JobError, NotFound, StorageError
from image_features.storage import Storage

log = logging.getLogger(__name__)

LOCK = "_LOCK"

STALE = timedelta(minutes=15)
"""Making a cluster takes seconds; a lock of this age is that of a process which was killed meanwhile."""


@contextmanager
def held(run: Storage, dag_run: str) -> Iterator[None]:
    """Hold the lock of the run below ``run`` for ``dag_run``, whose own earlier attempt is no other.

    Raises JobError when another DAG run holds it.
    """
    content = json.dumps({"dag_run": dag_run, "taken": datetime.now(UTC).isoformat()}).encode()
    if not run.put_if(LOCK, content):
        _take_over(run, dag_run, content)
    try:
        yield
    finally:
        try:
            run.delete([LOCK])
        except StorageError as error:  # it grows old by itself
            log.warning("the lock stays: %s", error)


def _take_over(run: Storage, dag_run: str, content: bytes) -> None:
    uri = run.uri_of(LOCK)
    try:
        found, version = run.get_versioned(LOCK)
    except NotFound:
        raise StorageError(f"{uri} was given back at this moment") from None  # the task's retry takes it
    try:
        values = json.loads(found.to_pybytes())
        owner, taken = str(values["dag_run"]), datetime.fromisoformat(values["taken"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{uri} is no lock, delete it: {error}") from error
    if owner == dag_run:
        return
    if datetime.now(UTC) - taken < STALE or not run.put_if(LOCK, content, version):
        raise JobError(
            f"DAG run {owner} is making a cluster for this run key, since {taken:%H:%M} UTC: wait until that "
            f"run has ended, then trigger again; if it is dead, delete {uri}, or wait "
            f"{STALE.seconds // 60} minutes"
        )
    log.warning("took over the lock of DAG run %s, of %s", owner, taken)
