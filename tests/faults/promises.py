"""What is promised of a run whatever was done to it, and how it is held.

The output is that of the undisturbed run, or the run failed and told its cause; every image is a feature
row or a reject; what has a ``_SUCCESS`` is whole and right; no cluster is alive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from ground import IMAGES, REJECTS

from image_features.contract import FeaturesMarker, PcaMarker, RunLayout, shard_key, shard_number
from image_features.documents import own_document
from image_features.storage import Storage
from support.stages import Stage

TOLERANCE = 1e-6
"""Largest difference of an embedding to the undisturbed run's."""

ALIVE = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING")


@dataclass(frozen=True)
class Output:
    """A run's rows, in order of their images."""

    features: pa.Table
    rejects: pa.Table
    embeddings: pa.Table


def table_of(storage: Storage, prefix: str) -> pa.Table:
    """All shards below a prefix of a run, in order of their images."""
    keys = [obj.key for obj in storage.list(prefix) if shard_number(obj.key) is not None]
    tables = [pq.read_table(pa.BufferReader(storage.get(key))) for key in sorted(keys)]
    return pa.concat_tables([table.replace_schema_metadata(None) for table in tables]).sort_by("image")


def output_of(storage: Storage) -> Output:
    return Output(*(table_of(storage, prefix) for prefix in ("features", "rejects", "pca")))


def held(stage: Stage, run_key: str, undisturbed: Output) -> None:
    """The promises of a run that went through."""
    storage = stage.run_storage(run_key)
    features, pca = markers(stage, storage)
    assert features, "the run went through without features/_SUCCESS"
    assert pca, "the run went through without pca/_SUCCESS"
    assert features.images == features.features + features.rejects == IMAGES
    assert features.rejects == REJECTS
    summary: dict[str, Any] = json.loads(storage.get("summary.json").to_pybytes())
    assert (summary["images"], summary["features"], summary["rejects"]) == (
        IMAGES,
        IMAGES - REJECTS,
        REJECTS,
    )
    assert storage.exists("report.html")
    same(output_of(storage), undisturbed)


def nothing_false(stage: Stage, run_key: str, undisturbed: Output) -> None:
    """The promises of a run that failed: what looks finished is right."""
    storage = stage.run_storage(run_key)
    features, pca = markers(stage, storage)
    if features:
        assert features.images == features.features + features.rejects == IMAGES
        assert table_of(storage, "features").equals(undisturbed.features)
    if pca:
        close(table_of(storage, "pca"), undisturbed.embeddings)
    assert not storage.exists("summary.json"), "a run that failed has a summary"


def nothing_alive(stage: Stage) -> None:
    assert stage.clusters(*ALIVE) == [], "a cluster lives on"


def markers(stage: Stage, storage: Storage) -> tuple[FeaturesMarker | None, PcaMarker | None]:
    """None for one that no reader takes: damaged, or of another release."""
    layout = RunLayout(storage.uri)
    return (
        own_document(FeaturesMarker, stage.aws.storage(layout.features)),
        own_document(PcaMarker, stage.aws.storage(layout.pca)),
    )


def same(found: Output, undisturbed: Output) -> None:
    assert found.features.equals(undisturbed.features), "other features than the undisturbed run's"
    assert found.rejects.equals(undisturbed.rejects), "other rejects than the undisturbed run's"
    close(found.embeddings, undisturbed.embeddings)


def close(found: pa.Table, undisturbed: pa.Table) -> None:
    names = ["image", "label"]
    assert found.select(names).equals(undisturbed.select(names)), "embeddings of other images"
    worst = float(np.abs(_matrix(found) - _matrix(undisturbed)).max())
    assert worst <= TOLERANCE, f"embeddings differ by {worst}"


def _matrix(table: pa.Table) -> npt.NDArray[np.float32]:
    return np.stack(table.column("embedding").to_numpy())


def recomputed(stage: Stage, run_key: str) -> int:
    """Images whose features were written more than once: the bucket keeps every version."""
    storage = stage.run_storage(run_key)
    features, _ = markers(stage, storage)
    if not features:
        return 0
    bucket, _, prefix = storage.uri.removeprefix("s3://").partition("/")
    pages = stage.aws.client("s3").get_paginator("list_object_versions")
    written: dict[str, int] = {}
    for page in pages.paginate(Bucket=bucket, Prefix=f"{prefix}/features/"):
        for version in page.get("Versions", []):
            name = version["Key"].rpartition("/")[2]
            written[name] = written.get(name, 0) + 1
    return sum(shard.images for shard in features.shards if written.get(shard_key(shard.shard), 1) > 1)
