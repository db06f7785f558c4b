"""EMR accepts the two steps, and the job code understands them."""

from __future__ import annotations

import contextlib
import inspect
import runpy
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.cluster.steps import extraction_step, reduction_step
from image_features import extraction, reduction, spark
from image_features.contract import RunLayout
from image_features.errors import JobError
from support.emr_model import refused_by_emr

LAYOUT = RunLayout("s3://b-1/runs/r1")
MODEL = "s3://b-1/models/abc"
STEPS = [
    extraction_step(LAYOUT, MODEL, 1_000_000),
    reduction_step(LAYOUT, MODEL, 50, None),
    reduction_step(LAYOUT, MODEL, None, 0.9),
]


def test_emr_accepts_the_steps() -> None:
    assert refused_by_emr("AddJobFlowSteps", {"JobFlowId": "j-1", "Steps": STEPS}) == ""


@pytest.mark.parametrize("built", STEPS)
def test_a_failed_step_leaves_the_cluster_for_the_dag_to_decide(built: dict[str, Any]) -> None:
    assert built["ActionOnFailure"] == "CONTINUE"
    assert built["HadoopJarStep"]["Jar"] == "command-runner.jar"
    assert built["HadoopJarStep"]["Args"][:3] == ["spark-submit", "--deploy-mode", "client"]


def test_the_steps_have_names_of_their_own() -> None:
    assert STEPS[0]["Name"] != STEPS[1]["Name"]


def arguments_of(built: dict[str, Any]) -> tuple[str, list[str]]:
    """The script's name, and the arguments that spark-submit hands to it."""
    args = built["HadoopJarStep"]["Args"]
    at = next(n for n, word in enumerate(args) if word.endswith(".py"))
    assert args[at - 1] == "s3://b-1/runs/r1/code/image_features.zip"
    return args[at].removeprefix("s3://b-1/runs/r1/code/"), args[at + 1 :]


@pytest.mark.parametrize(
    ("built", "called"),
    [
        (
            STEPS[0],
            {
                "sample": "s3://b-1/runs/r1/sample",
                "model": MODEL,
                "output": "s3://b-1/runs/r1/features",
                "rejects": "s3://b-1/runs/r1/rejects",
                "max_pixels": 1_000_000,
                "earlier_run": None,
                "max_reject_rate": 1.0,
                "count_left_out": False,
            },
        ),
        (
            extraction_step(LAYOUT, MODEL, 1_000_000, "s3://b-1/runs/r0", 0.25, True),
            {
                "sample": "s3://b-1/runs/r1/sample",
                "model": MODEL,
                "output": "s3://b-1/runs/r1/features",
                "rejects": "s3://b-1/runs/r1/rejects",
                "max_pixels": 1_000_000,
                "earlier_run": "s3://b-1/runs/r0",
                "max_reject_rate": 0.25,
                "count_left_out": True,
            },
        ),
        (
            STEPS[1],
            {
                "features": "s3://b-1/runs/r1/features",
                "output": "s3://b-1/runs/r1/pca",
                "model": MODEL,
                "components": 50,
                "variance": None,
            },
        ),
        (
            STEPS[2],
            {
                "features": "s3://b-1/runs/r1/features",
                "output": "s3://b-1/runs/r1/pca",
                "model": MODEL,
                "components": None,
                "variance": 0.9,
            },
        ),
    ],
)
def test_the_scripts_understand_the_arguments_of_the_steps(
    repo: Path, monkeypatch: pytest.MonkeyPatch, built: dict[str, Any], called: dict[str, Any]
) -> None:
    """The real entry points parse the arguments; only the Spark job behind them is left out."""
    seen: dict[str, Any] = {}

    def record(real: Any) -> Any:
        signature = inspect.signature(real)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            seen.update(signature.bind(*args, **kwargs).arguments)
            raise JobError("far enough")

        return recorded

    monkeypatch.setattr(extraction, "run", record(extraction.run))
    monkeypatch.setattr(reduction, "run", record(reduction.run))
    monkeypatch.setattr(spark, "spark_session", lambda name: contextlib.nullcontext("spark"))
    script, arguments = arguments_of(built)
    main = runpy.run_path(str(repo / "spark_jobs" / script))["main"]
    assert main(arguments) == 2
    assert seen == {"spark": "spark", **called}


def test_a_step_over_emrs_length_limit_is_refused() -> None:
    longest = RunLayout("s3://" + "b" * 4000)
    with pytest.raises(JobError, match=r"the step 'extract features' has \d+ characters, EMR allows 10240"):
        extraction_step(longest, MODEL)
