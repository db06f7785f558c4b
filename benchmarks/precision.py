"""int8 compared with float32: its speed, and the difference of its features."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import goals, limit
from benchmarks.context import Context, Sizes, read_features
from benchmarks.measure import interleaved
from benchmarks.report import Goal, Result, Row, comparison, row
from fruit_pipeline.model import backbones, quantise
from image_features.contract import MODEL_JSON

# Half of the smallest sample is used for the calibration.
SIZES = Sizes(quick={400: 2}, full={10_000: 1}, least=2 * backbones.MIN_IMAGES)
_TITLE = "int8 against float32"
_RATIO = "int8 / float32"


def run(context: Context) -> Result:
    if context.weights.startswith("random:"):
        rows = [row("not run: int8 needs trained weights, give --weights", unit="")]
        return Result("precision", _TITLE, _RATIO, None, rows)
    rows = []
    runs: dict[str, Any] = {}
    for size, repeats in context.sizes(SIZES).items():
        prepared = context.folder_of(size)
        sample = context.fresh("precision-sample")
        context.sample(prepared.folder, sample)
        _ = context.model, context.code
        # The export accepts any cosine; the rows below show it.
        options = ["--precision", "int8", "--sample", f"file://{sample}/sample", "--min-cosine", "-1"]
        int8 = context.export(options)
        results: dict[str, list[Any]] = interleaved(
            {
                "bare float32": partial(limit.bare, context, prepared),
                "bare int8": partial(limit.bare, context, prepared, int8),
                "float32": partial(_extraction, context, sample, "float32", context.model),
                "int8": partial(_extraction, context, sample, "int8", int8),
            },
            repeats,
        )
        quality = compare(context)
        calibration = json.loads((int8 / MODEL_JSON).read_text())["quality"]
        runs[str(size)] = {**results, "quality": vars(quality), "quality at export": calibration}
        rows += quality_rows(size, quality)
        rows += _speed_rows(size, results, goals.int8_speed(quality.mean_cosine))
    return Result(
        "precision",
        _TITLE,
        _RATIO,
        None,
        rows,
        notes=[
            "int8 is calibrated on images of the same sample, as in a run. Its features are compared with "
            "those of float32 over all images of the extraction.",
            "Extraction and bare loop: see the benchmark `limit`. All these figures include decoding and "
            "resizing, which are the same for both.",
            f"Goal of the speed: {goals.INT8_SPEED_CLOSE} from a mean cosine of {goals.INT8_CLOSE} on, "
            f"{goals.INT8_SPEED} below it.",
        ],
        runs=runs,
    )


def _extraction(context: Context, sample: Path, name: str, model: Path) -> dict[str, Any]:
    result = limit.ours(context, sample, model)
    # Kept for compare(), which uses those of the last round.
    folder = context.fresh(f"precision-{name}")
    (context.work / "runs" / "limit-ours" / "features").rename(folder / "features")
    return result


def compare(context: Context) -> quantise.Quality:
    """Quality of the int8 features of the last round."""
    runs = context.work / "runs"
    images, exact = read_features(runs / "precision-float32" / "features")
    int8_images, int8 = read_features(runs / "precision-int8" / "features")
    if images != int8_images:
        raise ValueError("the two extractions have different images")
    labels = [Path(image).parent.name for image in images]
    return quantise.measure_quality(exact, int8, labels, images_calibrated=0)


def quality_rows(size: int, quality: quantise.Quality) -> list[Row]:
    """Rows of the int8 features' quality."""
    return [
        row(
            "mean cosine of an image's features",
            size=size,
            ours=quality.mean_cosine,
            unit="",
            goal=goals.INT8_COSINE,
            note=f"lowest {quality.least_cosine:.3f}",
            repeats=1,
        ),
        row(
            "images whose nearest other image has their label",
            size=size,
            ours=quality.neighbour_accuracy,
            other=quality.neighbour_accuracy_float32,
            unit="share",
            ratio=max(0.0, quality.neighbour_accuracy_float32 - quality.neighbour_accuracy),
            ratio_of="lost share",
            goal=goals.INT8_NEIGHBOURS,
            repeats=1,
        ),
        row(
            f"variance kept in {quality.components} components",
            size=size,
            ours=quality.variance_kept,
            other=quality.variance_kept_float32,
            unit="share",
            repeats=1,
        ),
    ]


def _speed_rows(size: int, results: dict[str, list[Any]], goal: Goal | None) -> list[Row]:
    def of(side: str, key: str) -> list[float]:
        return [r[key] for r in results[side] if r[key]]

    repeats = len(results["int8"])
    sides = (
        ("extraction, steady state", of("int8", "steady"), of("float32", "steady"), goal),
        ("extraction, JVM start to _SUCCESS", of("int8", "whole"), of("float32", "whole"), None),
        (
            "bare loop",
            [r.rate for r in results["bare int8"]],
            [r.rate for r in results["bare float32"]],
            None,
        ),
    )
    return [
        comparison(what, fast, exact, size=size, unit="images/s", goal=bound)
        for what, fast, exact, bound in sides
        if len(fast) == len(exact) == repeats
    ]
