"""What lies in the bucket: the runs with their sizes, and uploads that nobody completed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from image_features.contract import SUMMARY

RUNS = "runs"

TEMPORARY = ("sample", "code", "logs")
"""Folders of a run that its results do not need: images and manifest are made again from the
source, the code is in the repository, the logs have been read."""

NOTEBOOK = "_notebook-"
"""Beginning of the key of a notebook cluster, which no run's key can have. Nothing of it is a result."""

# Longer than any stage of a run goes without writing an object.
_AT_WORK = timedelta(hours=1)


@dataclass(frozen=True)
class RunObject:
    """One object of a run; ``key`` is that in the bucket, ``name`` that below the run's prefix."""

    key: str
    name: str
    size: int
    modified: datetime

    @property
    def folder(self) -> str:
        """First folder below the run, "" for an object at its top."""
        return self.name.rpartition("/")[0].partition("/")[0]


@dataclass
class StoredRun:
    """A run's prefix in figures. Times are those of S3."""

    key: str
    objects: int = 0
    bytes: int = 0
    temporary_objects: int = 0
    temporary_bytes: int = 0
    last: datetime | None = None  # when its newest object was written
    worked: datetime | None = None  # the same without the logs, which AWS ships later
    summed_up: datetime | None = None  # when its summary.json was written

    def add(self, found: RunObject) -> None:
        self.objects += 1
        self.bytes += found.size
        if found.folder in TEMPORARY:
            self.temporary_objects += 1
            self.temporary_bytes += found.size
        self.last = max(self.last or found.modified, found.modified)
        if found.folder != "logs":
            self.worked = max(self.worked or found.modified, found.modified)
        if found.name == SUMMARY:
            self.summed_up = found.modified

    def at_work(self, now: datetime) -> bool:
        """Whether something other than its summary was the last to be written, and lately."""
        if self.worked is None or now - self.worked > _AT_WORK:
            return False
        return self.summed_up is None or self.worked > self.summed_up

    @property
    def ended(self) -> bool:
        """Whether it needs its temporary data no more, once nobody works on it."""
        return self.summed_up is not None or self.key.startswith(NOTEBOOK)

    def untouched_for(self, now: datetime) -> timedelta:
        return now - self.last if self.last else timedelta(0)


@dataclass(frozen=True)
class Upload:
    """An upload in parts that was begun and not completed."""

    key: str
    started: datetime
    bytes: int  # of the parts that arrived


def objects_of(s3: Any, bucket: str, root: str) -> Iterator[RunObject]:
    """All objects below a run's prefix, whose keys begin with ``<root>/``."""
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{root}/"):
        for found in page.get("Contents", []):
            name = found["Key"].removeprefix(f"{root}/")
            yield RunObject(found["Key"], name, found["Size"], found["LastModified"])


def run_of(key: str, objects: Iterable[RunObject]) -> StoredRun:
    run = StoredRun(key)
    for found in objects:
        run.add(found)
    return run


def runs_of(s3: Any, bucket: str) -> list[StoredRun]:
    """Every run of the bucket, in the order of the keys: one pass over ``runs/``."""
    runs: dict[str, StoredRun] = {}
    for found in objects_of(s3, bucket, RUNS):
        key, _, name = found.name.partition("/")
        if name:
            runs.setdefault(key, StoredRun(key)).add(RunObject(found.key, name, found.size, found.modified))
    return list(runs.values())


def forgotten_uploads(s3: Any, bucket: str, before: datetime) -> list[Upload]:
    """Uploads in parts that were begun before ``before``, the oldest first."""
    found = []
    for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket):
        for upload in page.get("Uploads", []):
            if upload["Initiated"] < before:
                part_pages = s3.get_paginator("list_parts").paginate(
                    Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )
                size = sum(part["Size"] for parts in part_pages for part in parts.get("Parts", []))
                found.append(Upload(upload["Key"], upload["Initiated"], size))
    return sorted(found, key=lambda upload: (upload.started, upload.key))
