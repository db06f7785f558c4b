"""The two EMR steps of a run, as ``AddJobFlowSteps`` takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fruit_pipeline.cluster import emr_limits
from fruit_pipeline.cluster.job_code import EXTRACT_SCRIPT, JOB_PACKAGE, PCA_SCRIPT
from image_features.contract import RunLayout
from image_features.images import DEFAULT_MAX_PIXELS
from image_features.storage import join_uri

EXTRACTION = "extract features"
REDUCTION = "reduce with PCA"


def extraction_step(
    layout: RunLayout,
    model: str,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    reuse: str | None = None,
    max_reject_rate: float = 1.0,
    count_left_out: bool = False,
) -> dict[str, Any]:
    """The extraction step; ``reuse`` is the URI of an earlier run. Raises JobError above EMR's limits."""
    arguments = {
        "--sample": layout.sample,
        "--model": model,
        "--output": layout.features,
        "--rejects": layout.rejects,
        "--max-pixels": str(max_pixels),
        "--max-reject-rate": f"{max_reject_rate:g}",
    }
    if reuse:
        arguments["--reuse"] = reuse
    flags = ["--count-left-out"] if count_left_out else []
    return _step(EXTRACTION, layout, EXTRACT_SCRIPT, arguments, flags)


def reduction_step(
    layout: RunLayout, model: str, components: int | None, variance: float | None
) -> dict[str, Any]:
    """The PCA step; ``model`` is that of the extraction, for embed.tflite. Raises JobError likewise."""
    size = {"--components": str(components)} if components is not None else {"--variance": str(variance)}
    arguments = {"--features": layout.features, "--output": layout.pca, "--model": model, **size}
    return _step(REDUCTION, layout, PCA_SCRIPT, arguments)


def _step(
    name: str, layout: RunLayout, script: str, arguments: dict[str, str], flags: Sequence[str] = ()
) -> dict[str, Any]:
    command = [
        "spark-submit",
        # In client mode the driver runs on the primary node, and its output is the log of the step.
        "--deploy-mode",
        "client",
        "--py-files",
        join_uri(layout.code, JOB_PACKAGE),
        join_uri(layout.code, script),
        *(word for option in arguments.items() for word in option),
        *flags,
    ]
    step = {
        "Name": name,
        # After a failure the cluster waits: the DAG decides what follows.
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": command},
    }
    emr_limits.check_steps([step])
    return step
