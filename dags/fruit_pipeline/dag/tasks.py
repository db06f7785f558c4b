"""The work of the tasks of `fruit_features`: functions over plain values, which XCom can hold.

``values`` is the run's request as `preflight` returns it. Heavy packages are imported by the tasks that need
them, because the scheduler parses the DAG file again and again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.run.request import RunRequest, from_params
from image_features.contract import RunSummary
from image_features.documents import withdraw, withdrawing
from image_features.errors import JobError, Stage
from image_features.storage import Storage, join_uri

log = logging.getLogger(__name__)


def _source_aws() -> Aws:
    deployment = settings.load()
    return Aws.from_connection(deployment.source_aws_conn_id, deployment.region)


def _source(request: RunRequest) -> Storage | None:
    """Storage of an ``s3://`` source; None for a folder, which is read directly."""
    if not request.source.startswith("s3://"):
        return None
    payer = settings.load().source_requester_pays
    return Storage(request.source, _source_aws().s3_access(request_payer=payer))


def _seconds_since(started: float) -> float:
    return round(time.monotonic() - started, 1)


def preflight(params: Mapping[str, Any], run_id: str) -> dict[str, Any]:
    """Check Params, deployment and AWS; return the run's request."""
    from fruit_pipeline.checks.preflight import check

    deployment = settings.load()
    request = from_params(params, run_id, deployment.bucket)
    check(request, deployment, Aws.of_deployment(deployment), _source_aws())
    return request.to_dict()


def draw_sample(values: Mapping[str, Any]) -> dict[str, Any]:
    """Draw, pack and upload the sample."""
    from fruit_pipeline.cluster.shapes import load_shape
    from fruit_pipeline.sample import left_out
    from fruit_pipeline.sample.draw import write_sample
    from fruit_pipeline.sample.sources import Source

    started = time.monotonic()
    request, deployment = RunRequest.from_dict(values), settings.load()
    shape = load_shape(deployment.home, request.shape)
    marker = write_sample(
        replace(request.sample(shape.worker_cores), requester_pays=deployment.source_requester_pays),
        Source(request.source, _source(request)),
        Aws.of_deployment(deployment).storage(request.layout.sample),
    )
    if request.count_left_out:
        left_out.check_losses(marker.left_out, marker.images, request.max_reject_rate)
    return {
        "images": marker.images,
        "bytes": marker.bytes,
        "labels": len(marker.labels),
        "shards": len(marker.shards),
        "seconds": _seconds_since(started),
    }


def export_backbone(values: Mapping[str, Any]) -> dict[str, Any]:
    """Export the backbone, or take it from the cache, and upload it."""
    from fruit_pipeline.model.export import export, publish

    started = time.monotonic()
    request, deployment = RunRequest.from_dict(values), settings.load()
    spec, folder = export(request.model, deployment.cache_dir)
    uri = publish(spec, folder, Aws.of_deployment(deployment).storage(f"s3://{request.bucket}/models"))
    return {"uri": uri, "width": spec.width, "seconds": _seconds_since(started)}


def quantise(values: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """For precision int8, quantise the backbone and upload it; return the model to use.

    ``model`` is the result of `export_backbone`, which precision float32 uses.
    """
    from fruit_pipeline.model import quantise as model_quantise
    from fruit_pipeline.model.export import publish

    started = time.monotonic()
    request, deployment = RunRequest.from_dict(values), settings.load()
    if request.precision == "float32":
        return dict(model)
    aws = Aws.of_deployment(deployment)
    spec, folder = model_quantise.quantise(
        request.model,
        aws.storage(request.layout.sample),
        deployment.cache_dir,
        request.min_cosine,
        request.max_pixels,
        _source(request),
    )
    uri = publish(spec, folder, aws.storage(f"s3://{request.bucket}/models"))
    return {"uri": uri, "width": spec.width, "seconds": round(model["seconds"] + _seconds_since(started), 1)}


def upload_code(values: Mapping[str, Any]) -> dict[str, Any]:
    """Upload the job code, the bootstrap script, and the wheels for the nodes."""
    from fruit_pipeline.cluster import job_code, wheelhouse

    started = time.monotonic()
    request, deployment = RunRequest.from_dict(values), settings.load()
    aws = Aws.of_deployment(deployment)
    job_code.upload(deployment.home, aws.storage(request.layout.code))
    wheels = wheelhouse.build(
        deployment.home / "bootstrap" / wheelhouse.REQUIREMENTS, deployment.node_target, deployment.cache_dir
    )
    uri = wheelhouse.publish(wheels, aws.storage(f"s3://{request.bucket}/wheelhouse"))
    return {
        "bootstrap": join_uri(request.layout.code, job_code.BOOTSTRAP_SCRIPT),
        "wheelhouse": uri,
        "wheel_bytes": wheels.bytes,
        "digests": {**job_code.digests(deployment.home), "wheels": wheels.digest},
        "seconds": _seconds_since(started),
    }


def plan_cluster(
    values: Mapping[str, Any], sample: Mapping[str, Any], model: Mapping[str, Any], code: Mapping[str, Any]
) -> dict[str, Any]:
    """Build the requests for cluster and steps, the estimate, and the time limits that follow from it.

    This is the last check, before a cluster exists, of what can fail and of what the run may cost.
    """
    from fruit_pipeline.aws import clusters
    from fruit_pipeline.checks import preflight
    from fruit_pipeline.cluster import steps
    from fruit_pipeline.cluster.job_flow import EVENT_LOGS_MARKER, build_request
    from fruit_pipeline.cluster.shapes import load_shape
    from fruit_pipeline.cost import estimate, prices
    from image_features import reuse
    from image_features.contract import MODEL_JSON, BackboneSpec
    from image_features.documents import read_document
    from image_features.images import preprocessing_of
    from image_features.pca import check_request

    request, deployment = RunRequest.from_dict(values), settings.load()
    aws = Aws.of_deployment(deployment)
    check_request(sample["images"], model["width"], request.components, request.variance)
    if request.reuse:
        spec = read_document(BackboneSpec, aws.storage(model["uri"]), MODEL_JSON)
        earlier = aws.storage(reuse.features_of(request.reuse))
        reuse.check(request.reuse, spec, preprocessing_of(spec, request.max_pixels), earlier)
    layout, shape = request.layout, load_shape(deployment.home, request.shape)
    run_estimate = estimate.estimate(
        request.work(sample["images"], sample["bytes"]),
        request.shape,
        shape,
        prices.load(deployment.home, deployment.region),
        deployment.poll_seconds,
    )
    log.info("estimate:\n%s", estimate.table(run_estimate))
    estimate.check_budget(run_estimate, request.max_cost_usd)
    preflight.check_no_other_cluster(aws, request.run_key, request.dag_run)  # again, as time has passed
    aws.storage(layout.logs).put(EVENT_LOGS_MARKER, b"")
    cluster = build_request(
        deployment,
        shape,
        request.run_key,
        layout.logs,
        code["bootstrap"],
        code["wheelhouse"],
        more_tags={clusters.DAG_RUN_TAG: request.dag_run},
    )
    return {
        "run_uri": layout.root,
        "cluster": cluster,
        "extraction": [
            steps.extraction_step(
                layout,
                model["uri"],
                request.max_pixels,
                request.reuse,
                request.max_reject_rate,
                request.count_left_out,
            )
        ],
        "reduction": [steps.reduction_step(layout, model["uri"], request.components, request.variance)],
        "estimate": asdict(run_estimate),
        **{f"{stage}_limit": seconds for stage, seconds in estimate.limits(run_estimate).items()},
    }


def check_output(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check all that the steps wrote; delete the markers of damaged output, so that a rerun replaces it."""
    from fruit_pipeline.checks.output import check_run

    started = time.monotonic()
    request, aws = RunRequest.from_dict(values), Aws.of_deployment(settings.load())
    layout = request.layout
    try:
        report = check_run(layout, aws.storage, _source(request))
    except JobError as error:
        if error.retryable:  # the output could not be read, which does not mean that it is damaged
            raise
        damaged = [layout.features, layout.pca] + [layout.sample] * (error.stage is Stage.SAMPLE)
        raise JobError(f"{error}{withdraw(*map(aws.storage, damaged))}") from None
    return {**asdict(report), "seconds": _seconds_since(started)}


def summarise(
    values: Mapping[str, Any], cluster_id: str, parts: Mapping[str, Mapping[str, Any]]
) -> RunSummary:
    """Write the run's ``summary.json``, and return it.

    ``parts``: results of the sample, model, code and check tasks, and the plan's estimate, by name.
    """
    from fruit_pipeline.run import summary
    from image_features.contract import SUMMARY

    request, aws = RunRequest.from_dict(values), Aws.of_deployment(settings.load())
    layout = request.layout
    with withdrawing({Stage.SAMPLE: aws.storage(layout.sample), Stage.PCA: aws.storage(layout.pca)}):
        built = summary.build(request, aws, cluster_id, parts)
    aws.storage(request.layout.root).put(SUMMARY, summary.to_json(built))
    return built


def make_report(values: Mapping[str, Any]) -> dict[str, Any]:
    """Write the run's ``report.html``; return its URI and figures."""
    from fruit_pipeline.report.build import make

    request = RunRequest.from_dict(values)
    return asdict(make(request.layout, Aws.of_deployment(settings.load()).storage, _source(request)))
