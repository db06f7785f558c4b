"""The summary of a run, ``summary.json``: built from the results of its tasks, written and read."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster.shapes import load_shape, shape_file
from fruit_pipeline.cost import actual, prices
from fruit_pipeline.run.request import RunRequest
from image_features.contract import (
    MODEL_JSON,
    SUMMARY,
    ActualCost,
    BackboneSpec,
    CostEstimate,
    PcaSummary,
    RunCost,
    RunPlaces,
    RunSummary,
    SampleMarker,
    UnknownCost,
)
from image_features.documents import read_document, sealed, unsealed
from image_features.errors import Damaged, JobError

log = logging.getLogger(__name__)

_END_SECONDS = 180
"""How long to wait for a terminating cluster, so that the cost covers its whole lifetime."""


def build(
    request: RunRequest, aws: Aws, cluster_id: str, parts: Mapping[str, Mapping[str, Any]]
) -> RunSummary:
    """Gather the summary of a run.

    ``parts``: results of the sample, model, code and check tasks, and the plan's estimate, by name.
    """
    layout, checks, model_uri = request.layout, parts["checks"], parts["model"]["uri"]
    pca = read_document(PcaSummary, aws.storage(layout.pca), SUMMARY)
    spec = read_document(BackboneSpec, aws.storage(model_uri), MODEL_JSON)
    sample = read_document(SampleMarker, aws.storage(layout.sample))
    return RunSummary(
        run_key=request.run_key,
        request=request.to_dict(),
        images=checks["images"],
        features=checks["features"],
        reused=checks["reused"],
        rejects=checks["rejects"],
        rejects_by_reason=checks["rejects_by_reason"],
        labels=checks["labels"],
        width=checks["width"],
        components=checks["components"],
        variance_kept=checks["variance_kept"],
        checks=checks["checks"],
        backbone=spec.backbone,
        weights=spec.weights,
        weights_are_random=spec.weights.startswith("random:"),
        input_size=spec.input_size,
        precision=spec.precision,
        quality=spec.quality,
        digests={
            "sample": sample.request_digest,
            "images": checks["images_digest"],
            "model": spec.digest,
            "features": pca.features_digest,
            "rows": checks["rows_digest"],
            "pca": pca.pca_digest,
            "embedder": pca.embedder_digest,
            **parts["code"]["digests"],
            **_file_digests(request),
        },
        seconds={
            "sample": parts["sample"]["seconds"],
            "model": parts["model"]["seconds"],
            "code": parts["code"]["seconds"],
            **_cluster_seconds(aws.client("emr"), cluster_id),
            "checks": checks["seconds"],
        },
        cost=RunCost(
            estimate=TypeAdapter(CostEstimate).validate_python(parts["estimate"]),
            by_the_clock=cluster_cost(request, aws, cluster_id),
        ),
        wheel_bytes=parts["code"]["wheel_bytes"],
        versions={**pca.versions, **spec.exported_with, **_own_versions(request)},
        cluster_id=cluster_id,
        places=RunPlaces(
            sample=layout.sample,
            model=model_uri,
            features=layout.features,
            rejects=layout.rejects,
            embeddings=layout.pca,
            logs=layout.logs,
            report=layout.report,  # written after this summary, which it shows
        ),
        source_files=sample.source_files,
        left_out=sample.left_out,
        labels_without_images=sample.labels_without_images,
        conversions=checks["conversions"],
        labels_alike=sample.labels_alike,
    )


def to_json(summary: RunSummary) -> bytes:
    return sealed(asdict(summary))


def from_json(data: bytes, uri: str) -> RunSummary:
    """Parse ``summary.json``. Raises JobError that names ``uri`` when it is not a run's summary."""
    advice = "delete it, or let the DAG write it again"
    try:
        values = unsealed(data, uri, "a run's summary")
    except Damaged as error:
        raise Damaged(f"{error}; {advice}") from None
    try:
        return from_values(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise Damaged(f"{uri} is not a run's summary; {advice}: {where}: {first['msg']}") from None


def from_values(values: Mapping[str, Any]) -> RunSummary:
    """The summary from plain values, as XCom keeps them."""
    return TypeAdapter(RunSummary).validate_python(values)


def _file_digests(request: RunRequest) -> dict[str, str]:
    """SHA-256 of the files that decide the cluster and its estimate."""
    deployment = settings.load()
    home = deployment.home
    files = {
        "shape": shape_file(home, request.shape),
        "classifications": home / "emr_configs" / "classifications.json",
        "prices": prices.path_of(home, deployment.region),
    }
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def _own_versions(request: RunRequest) -> dict[str, str]:
    """Versions of Airflow and of the cluster's release. The pipeline itself has a digest, not a version."""
    return {
        "emr": load_shape(settings.load().home, request.shape).release_label,
        "airflow": importlib.metadata.version("apache-airflow"),
    }


def cluster_cost(request: RunRequest, aws: Aws, cluster_id: str) -> ActualCost | UnknownCost:
    """Cost of the cluster once it has ended; if that takes too long, its cost so far.

    A run that has finished does not fail because its cost cannot be computed.
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
            return actual.actual_cost(emr, cluster_id, price_list, shape.ebs_gb)
    except JobError as error:
        log.warning("%s", error)
        return UnknownCost(str(error))


def _cluster_seconds(emr: Any, cluster_id: str) -> dict[str, float]:
    """Seconds by EMR's clock: the cluster's start with its bootstrap, and each completed step by its name."""
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
