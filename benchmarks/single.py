"""End to end, compared with a script that predicts image by image."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks import goals
from benchmarks.context import COMPONENTS, Context, Sizes
from benchmarks.measure import interleaved
from benchmarks.notebook import compare, exact_variance, ours, their_job
from benchmarks.report import Result, Row

SIZES = Sizes(quick={100: 1}, full={2_000: 1}, least=COMPONENTS + 1)


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for size, repeats in context.sizes(SIZES).items():
        images = context.folder_of(size).folder
        sides = {
            "ours": partial(ours, context, images),
            "single": partial(their_job, context, "single", images, []),
        }
        results = interleaved(sides, repeats)
        runs[str(size)] = results
        rows += compare(
            "one image for each predict",
            size,
            results["ours"],
            results["single"],
            goals.at(goals.SINGLE, size),
            context.export_seconds,
            exact_variance(context),
        )
    return Result(
        "single",
        "end to end against a predict call for each image",
        "their time / ours",
        None,
        rows,
        notes=[
            "Theirs: one spark-submit; mapPartitions builds the model once for each partition (four "
            "partitions for each core) and calls model.predict for each image. pyspark.ml's PCA uses cached "
            "features."
        ],
        runs=runs,
    )
