"""Checks of what is promised of every run, whatever fault occurred.

The output is that of the undisturbed run, or the run failed and its message has the cause; every image is a
feature row or a reject; a stage with a ``_SUCCESS`` is complete and correct; no cluster is alive.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from testbed import IMAGES, REJECTS

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


def check_finished(stage: Stage, run_key: str, undisturbed: Output) -> None:
    """Check a run that went through."""
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
    check_same_output(output_of(storage), undisturbed)


def check_failed(stage: Stage, run_key: str, undisturbed: Output) -> None:
    """Check a run that failed: stages that look finished are correct."""
    storage = stage.run_storage(run_key)
    features, pca = markers(stage, storage)
    if features:
        assert features.images == features.features + features.rejects == IMAGES
        assert table_of(storage, "features").equals(undisturbed.features)
    if pca:
        check_close(table_of(storage, "pca"), undisturbed.embeddings)
    assert not storage.exists("summary.json"), "a run that failed has a summary"


def check_no_cluster_alive(stage: Stage) -> None:
    assert stage.clusters(*ALIVE) == [], "a cluster lives on"


def markers(stage: Stage, storage: Storage) -> tuple[FeaturesMarker | None, PcaMarker | None]:
    """The markers, None for one that is missing, damaged or of another release."""
    layout = RunLayout(storage.uri)
    return (
        own_document(FeaturesMarker, stage.aws.storage(layout.features)),
        own_document(PcaMarker, stage.aws.storage(layout.pca)),
    )


def check_same_output(output: Output, undisturbed: Output) -> None:
    assert output.features.equals(undisturbed.features), "other features than the undisturbed run's"
    assert output.rejects.equals(undisturbed.rejects), "other rejects than the undisturbed run's"
    check_close(output.embeddings, undisturbed.embeddings)


def check_close(embeddings: pa.Table, undisturbed: pa.Table) -> None:
    names = ["image", "label"]
    assert embeddings.select(names).equals(undisturbed.select(names)), "embeddings of other images"
    worst = float(np.abs(_matrix(embeddings) - _matrix(undisturbed)).max())
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
