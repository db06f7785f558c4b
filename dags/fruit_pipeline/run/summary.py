"""What a run was and what came of it, for ``summary.json``, the log and the demo's table."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster.shapes import load_shape, shape_file
from fruit_pipeline.cost import actual, prices
from fruit_pipeline.run.request import RunRequest
from image_features.contract import MODEL_JSON, SUMMARY, BackboneSpec, SampleMarker
from image_features.documents import read_document
from image_features.errors import JobError

log = logging.getLogger(__name__)

_END_SECONDS = 180
"""How long a cluster that is ending is waited for, so that its cost is that of its whole life."""


def build(
    request: RunRequest, aws: Aws, cluster_id: str, parts: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Gather the run's figures: its request, counts, quality, seconds a stage and places."""
    import json

    layout, checks, model_uri = request.layout, parts["checks"], parts["model"]["uri"]
    pca = json.loads(aws.storage(layout.pca).get(SUMMARY).to_pybytes())
    spec = read_document(BackboneSpec, aws.storage(model_uri), MODEL_JSON)
    sample = read_document(SampleMarker, aws.storage(layout.sample))
    return {
        "run_key": request.run_key,
        "request": request.to_dict(),
        "images": checks["images"],
        "features": checks["features"],
        "reused": checks["reused"],
        "rejects": checks["rejects"],
        "rejects_by_reason": checks["rejects_by_reason"],
        "labels": checks["labels"],
        "width": checks["width"],
        "components": checks["components"],
        "variance_kept": checks["variance_kept"],
        "checks": checks["checks"],
        "backbone": spec.backbone,
        "weights": spec.weights,
        "weights_are_random": spec.weights.startswith("random:"),
        "input_size": spec.input_size,
        "precision": spec.precision,
        "quality": spec.quality,
        "digests": {
            "sample": sample.request_digest,
            "images": checks["images_digest"],
            "model": spec.digest,
            "features": pca["features_digest"],
            "rows": checks["rows_digest"],
            "pca": pca["pca_digest"],
            "embedder": pca["embedder_digest"],
            **parts["code"]["digests"],
            **_file_digests(request),
        },
        "seconds": {
            "sample": parts["sample"]["seconds"],
            "model": parts["model"]["seconds"],
            "code": parts["code"]["seconds"],
            **_cluster_seconds(aws.client("emr"), cluster_id),
            "checks": checks["seconds"],
        },
        "cost": {"estimate": parts["estimate"], "by_the_clock": _cost(request, aws, cluster_id)},
        "wheel_bytes": parts["code"]["wheel_bytes"],
        "versions": {**pca["versions"], **spec.exported_with, **_own_versions(request)},
        "cluster_id": cluster_id,
        "places": {
            "sample": layout.sample,
            "model": model_uri,
            "features": layout.features,
            "rejects": layout.rejects,
            "embeddings": layout.pca,
            "logs": layout.logs,
            "report": layout.report,  # made after this summary, which it shows
        },
    }


def _file_digests(request: RunRequest) -> dict[str, str]:
    """SHA-256 of the files that the cluster and its estimate were made from."""
    deployment = settings.load()
    home = deployment.home
    files = {
        "shape": shape_file(home, request.shape),
        "classifications": home / "emr_configs" / "classifications.json",
        "prices": prices.path_of(home, deployment.region),
    }
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def _own_versions(request: RunRequest) -> dict[str, str]:
    """Of Airflow and the cluster's release; the pipeline, which may not be installed, has a digest."""
    return {
        "emr": load_shape(settings.load().home, request.shape).release_label,
        "airflow": importlib.metadata.version("apache-airflow"),
    }


def _cost(request: RunRequest, aws: Aws, cluster_id: str) -> dict[str, Any]:
    """USD by the cluster's own clock, once it has ended; of one that takes long, up to now.

    A run that is through does not fail for its bill: what could not be known is said in ``unknown``.
    """
    deployment = settings.load()
    try:
        with explained("the cluster's cost", aws):
            emr, deadline = aws.client("emr"), time.monotonic() + _END_SECONDS
            while time.monotonic() < deadline:
                if clusters.describe(emr, cluster_id).state != "TERMINATING":
                    break
                time.sleep(min(deployment.poll_seconds, 10))
            shape = load_shape(deployment.home, request.shape)
            price_list = prices.load(deployment.home, deployment.region)
            return actual.by_the_clock(emr, cluster_id, price_list, shape.ebs_gb)
    except JobError as error:
        log.warning("%s", error)
        return {"unknown": str(error)}


def _cluster_seconds(emr: Any, cluster_id: str) -> dict[str, float]:
    """Seconds from EMR's own clock: start with bootstrap, and each step by its name."""
    cluster = clusters.describe(emr, cluster_id)
    seconds = {}
    if cluster.ready:
        seconds["cluster start"] = _between(cluster.created, cluster.ready)
    steps = [
        step
        for page in emr.get_paginator("list_steps").paginate(ClusterId=cluster_id)
        for step in page["Steps"]
    ]
    for step in reversed(steps):  # newest first on AWS
        clock = step["Status"]["Timeline"]
        if step["Status"]["State"] == "COMPLETED":
            seconds[step["Name"]] = _between(clock["StartDateTime"], clock["EndDateTime"])
    return seconds


def _between(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds(), 1)


@dataclass(frozen=True)
class RunCost:
    """What a run's summary.json says of its cost in USD; None where it does not say."""

    estimate: float | None = None  # the expected case, before the run
    by_the_clock: float | None = None  # list prices over the life of its instances


def cost_of(summary: Any) -> RunCost:
    """The cost in a summary.json; of one that an older version wrote, or somebody else, nothing."""

    def figure(*path: str) -> float | None:
        value: Any = summary
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return float(value) if isinstance(value, int | float) else None

    return RunCost(
        estimate=figure("cost", "estimate", "expected", "total_usd"),
        by_the_clock=figure("cost", "by_the_clock", "total_usd"),
    )
