"""The two EMR steps of a run.

    python -m fruit_pipeline steps --run s3://bucket/runs/r1 --model s3://bucket/models/<digest> \\
        --components 50

prints them as JSON for `aws emr add-steps`, or as `spark-submit` commands with --commands.
"""

from __future__ import annotations

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
) -> dict[str, Any]:
    """``AddJobFlowSteps`` entry of the extraction; ``reuse`` is the URI of an earlier run."""
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
    return _step(EXTRACTION, layout, EXTRACT_SCRIPT, arguments)


def reduction_step(
    layout: RunLayout, model: str, components: int | None, variance: float | None
) -> dict[str, Any]:
    """``AddJobFlowSteps`` entry of the PCA; ``model`` is the extraction's, for embed.tflite."""
    kept = {"--components": str(components)} if components is not None else {"--variance": str(variance)}
    arguments = {"--features": layout.features, "--output": layout.pca, "--model": model, **kept}
    return _step(REDUCTION, layout, PCA_SCRIPT, arguments)


def _step(name: str, layout: RunLayout, script: str, arguments: dict[str, str]) -> dict[str, Any]:
    command = [
        "spark-submit",
        # The driver runs on the primary node, so its output is the step's own log.
        "--deploy-mode",
        "client",
        "--py-files",
        join_uri(layout.code, JOB_PACKAGE),
        join_uri(layout.code, script),
        *(word for option in arguments.items() for word in option),
    ]
    step = {
        "Name": name,
        # The DAG decides what follows a failure; the cluster waits for it.
        "ActionOnFailure": "CONTINUE",
        "HadoopJarStep": {"Jar": "command-runner.jar", "Args": command},
    }
    emr_limits.check_steps([step])
    return step
