"""End to end, compared with the usual notebook."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import goals
from benchmarks.context import COMPONENTS, Context, Sizes, answer, pca_marker, read_features
from benchmarks.measure import interleaved
from benchmarks.report import Goal, Result, Row, comparison, row

SIZES = Sizes(quick={200: 1}, full={2_000: 2, 10_000: 1}, least=COMPONENTS + 1)
_REPEATS_AS_PUBLISHED = 1  # takes minutes
WRONG = "THEIR RESULT IS WRONG, so their time is that of a wrong answer"


@dataclass(frozen=True)
class EndToEnd:
    """One end-to-end run."""

    seconds: float
    cpu_seconds: float | None
    variance_kept: float


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for size, repeats in context.sizes(SIZES).items():
        images = context.folder_of(size).folder
        sides = {
            "ours": partial(ours, context, images),
            "as published": partial(notebook, context, images, once=False),
            "features written once": partial(notebook, context, images, once=True),
        }
        results = interleaved(sides, repeats, {"as published": context.times(_REPEATS_AS_PUBLISHED)})
        runs[str(size)] = results
        exact = exact_variance(context)
        for name, by_size in (
            ("as published", goals.NOTEBOOK_AS_PUBLISHED),
            ("features written once", goals.NOTEBOOK_FEATURES_ONCE),
        ):
            goal = goals.at(by_size, size)
            rows += compare(name, size, results["ours"], results[name], goal, context.export_seconds, exact)
    return Result(
        "notebook",
        "end to end against the usual notebook",
        "their time / ours",
        None,
        rows,
        notes=[
            f"Ours: packing the folder, extraction, PCA to {COMPONENTS} components; three processes, two of "
            "them spark-submit with Spark's default memory.",
            "Theirs: one spark-submit with 4 GB for the driver; binaryFile, weights by broadcast, one "
            "model.predict for each Arrow batch, a UDF to vectors, pyspark.ml's PCA. As published, "
            "everything is lazy, so each pass of the PCA computes the features again.",
            "The features come from a pandas UDF (scalar iterator).",
            "The backbone is exported once for a set of weights and then cached; "
            + (
                f"the export took {context.export_seconds:.0f} s in this run and has a row of its own."
                if context.export_seconds
                else "it was cached already, so it has no row."
            ),
        ],
        runs=runs,
    )


def compare(
    name: str,
    size: int,
    ours: list[EndToEnd],
    theirs: list[EndToEnd],
    goal: Goal | None,
    export: float | None,
    exact: float,
) -> list[Row]:
    """The rows of one form of the notebook. If its answer is wrong, the rows have no goal.

    If theirs ran less often than ours, the pairs are those of the first rounds.
    """
    ours = ours[: len(theirs)]
    if not goals.VARIANCE_KEPT.reached(abs(theirs[0].variance_kept - exact)):
        goal = None
    seconds, their_seconds = [r.seconds for r in ours], [r.seconds for r in theirs]
    rows = [
        comparison(name, seconds, their_seconds, size=size, theirs_over_ours=True, goal=goal),
    ]
    if export is not None:
        first = [s + export for s in seconds]
        rows.append(
            comparison(
                f"{name}, with our first export", first, their_seconds, size=size, theirs_over_ours=True
            )
        )
    cpu = [r.cpu_seconds for r in ours if r.cpu_seconds]
    their_cpu = [r.cpu_seconds for r in theirs if r.cpu_seconds]
    if len(cpu) == len(ours) and len(their_cpu) == len(theirs):
        rows.append(
            comparison(
                f"{name}, CPU seconds of all processes",
                cpu,
                their_cpu,
                size=size,
                unit="CPU s",
                theirs_over_ours=True,
            )
        )
    kept = variance_rows(name, size, ours[0].variance_kept, theirs[0].variance_kept, exact)
    return rows + [replace(item, repeats=len(theirs)) for item in kept]


def variance_rows(name: str, size: int, ours: float, theirs: float, exact: float) -> list[Row]:
    """The variance kept by both sides, each compared with the exact one, since either could be wrong."""
    correct = goals.VARIANCE_KEPT.reached(abs(theirs - exact))
    return [
        row(
            f"{name}, variance kept",
            size=size,
            ours=ours,
            other=theirs,
            unit="share",
            ratio=abs(ours - exact),
            ratio_of="difference of ours from exact",
            goal=goals.VARIANCE_KEPT,
            note=f"exact {exact:.4f}" if correct else f"exact {exact:.4f}; {WRONG}",
        )
    ]


def exact_variance(context: Context) -> float:
    """Share of variance that the components keep, from the features of our last run, in float64."""
    features = read_features(context.work / "runs" / "ours" / "features")[1].astype(np.float64)
    squares = np.linalg.svd(features - features.mean(axis=0), compute_uv=False) ** 2
    return float(squares[:COMPONENTS].sum() / squares.sum())


def ours(context: Context, images: Path) -> EndToEnd:
    _ = context.model, context.code  # prepared once, and not timed
    folder = context.fresh("ours")
    uses = [
        context.sample(images, folder),
        context.extract(folder),
        context.reduce(folder / "features", folder),
    ]
    cpu = [use.cpu_seconds for use in uses if use.cpu_seconds is not None]
    return EndToEnd(
        sum(use.seconds for use in uses),
        sum(cpu) if len(cpu) == len(uses) else None,
        pca_marker(folder).variance_kept,
    )


def notebook(context: Context, images: Path, *, once: bool) -> EndToEnd:
    return their_job(context, "notebook", images, ["--features-once"] if once else [])


def their_job(context: Context, name: str, images: Path, options: list[str]) -> EndToEnd:
    """Run the other side's script end to end."""
    folder = context.fresh(name)
    arguments = [
        *("--images", f"file://{images}"),
        *("--weights", context.weights),
        *("--output", f"file://{folder}/out"),
        *("--components", str(COMPONENTS)),
    ]
    use = context.job(name, [*arguments, *options], folder / "log")
    return EndToEnd(use.seconds, use.cpu_seconds, answer(folder / "log")["variance_kept"])
