"""A lock on one run key. A DAG run holds it while it checks for living clusters and creates its own.

The lock is an object in S3. A conditional write succeeds only if the object does not exist, or still has the
version that was read; so of two DAG runs at the same moment, one gets the lock.
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
"""Age from which a lock may be taken over. Creating a cluster takes seconds, so its owner was killed."""


@contextmanager
def held(run: Storage, dag_run: str) -> Iterator[None]:
    """Hold the lock below the run's prefix ``run`` for ``dag_run``; its own earlier attempt may hold it.

    Raises JobError if another DAG run holds it.
    """
    content = json.dumps({"dag_run": dag_run, "taken": datetime.now(UTC).isoformat()}).encode()
    if not run.put_if(LOCK, content):
        _take_over(run, dag_run, content)
    try:
        yield
    finally:
        try:
            run.delete([LOCK])
        except StorageError as error:  # it becomes stale after 15 minutes
            log.warning("the lock could not be deleted: %s", error)


def _take_over(run: Storage, dag_run: str, content: bytes) -> None:
    uri = run.uri_of(LOCK)
    try:
        data, version = run.get_versioned(LOCK)
    except NotFound:
        raise StorageError(f"{uri} was released at this moment") from None  # the task's retry acquires it
    try:
        values = json.loads(data.to_pybytes())
        owner, acquired = str(values["dag_run"]), datetime.fromisoformat(values["taken"])
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{uri} is not a valid lock, delete it: {error}") from error
    if owner == dag_run:
        return
    if datetime.now(UTC) - acquired < STALE or not run.put_if(LOCK, content, version):
        raise JobError(
            f"DAG run {owner} has been creating a cluster for this run key since {acquired:%H:%M} UTC: wait "
            f"until that run has ended, then trigger again; if it is dead, delete {uri}, or wait "
            f"{STALE.seconds // 60} minutes"
        )
    log.warning("took over the lock of DAG run %s, acquired at %s", owner, acquired)
