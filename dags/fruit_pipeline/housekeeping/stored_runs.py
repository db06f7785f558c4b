"""The contents of the bucket: runs with their sizes, and multipart uploads that were never completed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from image_features.contract import SUMMARY

RUNS = "runs"

TEMPORARY = ("sample", "code", "logs")
"""Folders of a run that its results do not need. The sample can be drawn again, the code is in the
repository, and the logs have been read."""

NOTEBOOK = "_notebook-"
"""Prefix of a notebook cluster's key, which no run's key can have. Nothing below it is a result."""

# Longer than any pause between two objects that a running stage writes.
_ACTIVE_WINDOW = timedelta(hours=1)


@dataclass(frozen=True)
class RunObject:
    """One object of a run; ``name`` is its key below the run's prefix."""

    key: str
    name: str
    size: int
    modified: datetime

    @property
    def folder(self) -> str:
        """First folder below the run's prefix, "" for an object directly below it."""
        return self.name.rpartition("/")[0].partition("/")[0]


@dataclass
class StoredRun:
    """Sizes and times of a run's objects. Times are those of S3."""

    key: str
    objects: int = 0
    bytes: int = 0
    temporary_objects: int = 0
    temporary_bytes: int = 0
    last: datetime | None = None  # when its newest object was written
    worked: datetime | None = None  # the same without the logs, which EMR ships later
    summed_up: datetime | None = None  # when its summary.json was written

    def add(self, item: RunObject) -> None:
        self.objects += 1
        self.bytes += item.size
        if item.folder in TEMPORARY:
            self.temporary_objects += 1
            self.temporary_bytes += item.size
        self.last = max(self.last or item.modified, item.modified)
        if item.folder != "logs":
            self.worked = max(self.worked or item.modified, item.modified)
        if item.name == SUMMARY:
            self.summed_up = item.modified

    def is_active(self, now: datetime) -> bool:
        """Whether it wrote an object in the last hour, and that was not its summary."""
        if self.worked is None or now - self.worked > _ACTIVE_WINDOW:
            return False
        return self.summed_up is None or self.worked > self.summed_up

    @property
    def ended(self) -> bool:
        """Whether it can do without its temporary data once it is not active."""
        return self.summed_up is not None or self.key.startswith(NOTEBOOK)

    def untouched_for(self, now: datetime) -> timedelta:
        return now - self.last if self.last else timedelta(0)


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was started and not completed."""

    key: str
    started: datetime
    bytes: int  # of its finished parts


def objects_of(s3: Any, bucket: str, root: str) -> Iterator[RunObject]:
    """All objects whose keys begin with ``<root>/``, a run's prefix."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{root}/"):
        for item in page.get("Contents", []):
            name = item["Key"].removeprefix(f"{root}/")
            yield RunObject(item["Key"], name, item["Size"], item["LastModified"])


def run_of(key: str, objects: Iterable[RunObject]) -> StoredRun:
    """Add up the objects of one run."""
    run = StoredRun(key)
    for item in objects:
        run.add(item)
    return run


def runs_of(s3: Any, bucket: str) -> list[StoredRun]:
    """Every run of the bucket in the order of the keys, by one listing of ``runs/``."""
    runs: dict[str, StoredRun] = {}
    for item in objects_of(s3, bucket, RUNS):
        key, _, name = item.name.partition("/")
        if name:
            runs.setdefault(key, StoredRun(key)).add(replace(item, name=name))
    return list(runs.values())


def abandoned_uploads(s3: Any, bucket: str, before: datetime) -> list[Upload]:
    """Multipart uploads that were started before ``before``, oldest first."""
    uploads = []
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            if upload["Initiated"] < before:
                part_pages = s3.get_paginator("list_parts").paginate(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                size = sum(part["Size"] for parts in part_pages for part in parts.get("Parts", []))
                uploads.append(Upload(upload["Key"], upload["Initiated"], size))
    return sorted(uploads, key=lambda upload: (upload.started, upload.key))
