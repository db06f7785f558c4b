"""Summaries of runs, with made-up figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from image_features.contract import (
    ActualCost,
    CostEstimate,
    EstimateCase,
    RunCost,
    RunPlaces,
    RunSummary,
    UnknownCost,
)

ROOT = "s3://fruits/runs/r1"

_FACTORS = {"low": 0.5, "expected": 1.0, "high": 2.0}


def estimate_case(total_usd: float) -> EstimateCase:
    return EstimateCase({"cluster start": 240.0}, 600.0, 0.5, {"EC2": total_usd}, total_usd)


def run_cost(estimated: float, actual: float | None) -> RunCost:
    """A cost whose expected case and whose actual cost are these, in USD; ``actual`` None: not known."""
    cases = {name: estimate_case(factor * estimated) for name, factor in _FACTORS.items()}
    return RunCost(
        CostEstimate(123, "small", "eu-west-3", "2026-09-01", **cases, storage_usd_month=0.0001),
        ActualCost(25.7, 0.05, {"EC2": actual}, actual, True, "2026-09-01", [])
        if actual is not None
        else UnknownCost("the cluster's cost: access denied"),
    )


SUMMARY = RunSummary(
    run_key="r1",
    request={"source": "/images"},
    images=10_243,
    features=10_240,
    reused=0,
    rejects=3,
    rejects_by_reason={"empty": 1, "truncated": 2},
    labels=131,
    width=1280,
    components=50,
    variance_kept=0.71654,
    checks=["features are finite and 1280 wide"],
    backbone="mobilenet_v2",
    weights="imagenet",
    weights_are_random=False,
    input_size=160,
    precision="float32",
    quality={},
    digests={"sample": "5a", "embedder": None},
    seconds={"sample": 10.0, "cluster start": 290.5, "extract features": 400.0},
    cost=run_cost(0.5, 0.4321),
    wheel_bytes=109_339_725,
    versions={"emr": "emr-7.14.0"},
    cluster_id="j-1",
    places=RunPlaces(
        sample=f"{ROOT}/sample",
        model="s3://fruits/models/1",
        features=f"{ROOT}/features",
        rejects=f"{ROOT}/rejects",
        embeddings=f"{ROOT}/pca",
        logs=f"{ROOT}/logs",
        report=f"{ROOT}/report.html",
    ),
)


def run_summary(**changes: Any) -> RunSummary:
    """A finished run's summary; ``changes`` replace its fields."""
    return replace(SUMMARY, **changes)
