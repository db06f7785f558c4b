"""Growth of the extraction's time and memory with the number of images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import goals
from benchmarks.context import Context, Sizes, features_marker
from benchmarks.limit import cpu_by_role
from benchmarks.measure import interleaved
from benchmarks.report import Goal, Result, Row, comparison, row

SIZES = Sizes(quick={200: 1, 400: 1, 800: 1}, full={1_000: 1, 10_000: 1, 90_000: 1})
_MIB = 2**20


def run(context: Context) -> Result:
    planned = context.sizes(SIZES)
    sizes, repeats = list(planned), min(planned.values())  # a marginal time needs both sizes
    notes = []
    sides = {}
    for size in sizes:
        prepared = context.folder_of(size)
        if prepared.distinct < size:
            notes.append(f"{size:,} images are {prepared.distinct:,} under several names.")
        sample = context.fresh(f"growth-sample-{size}")
        context.sample(prepared.folder, sample)
        sides[str(size)] = partial(extraction, context, sample)
    runs = interleaved(sides, repeats)
    return Result(
        "growth",
        "extraction of a growing number of images",
        "this size / the one before",
        repeats,
        _rows(sizes, runs),
        notes=[
            "Marginal time: the additional seconds of a size over its additional images; the ratio is to the "
            "marginal time of the size before. The column other has the smaller size's figure.",
            "Memory: peak PSS of a process, or RSS where PSS cannot be read. A worker holds one shard, which "
            "is smaller if it has fewer than 1,000 images.",
            *notes,
        ],
        runs=runs,
    )


def _rows(sizes: list[int], runs: dict[str, list[dict[str, Any]]]) -> list[Row]:
    def of(size: int, key: str) -> list[float]:
        return [r[key] for r in runs[str(size)] if r[key] is not None]

    rows = [row("extraction, whole", size=size, ours=median(of(size, "seconds"))) for size in sizes]
    before: list[float] | None = None
    for small, large in pairwise(sizes):
        marginal = [
            1000 * (b - a) / (large - small)
            for a, b in zip(of(small, "seconds"), of(large, "seconds"), strict=True)
        ]
        what = f"marginal time of an image, from {small:,} on"
        rows.append(_row(what, large, "ms", marginal, before, goals.GROWTH_TIME))
        before = marginal
    for what, key in (("driver's JVM, peak", "jvm"), ("a Python worker, peak", "worker")):
        for place, size in enumerate(sizes):
            peaks = [peak / _MIB for peak in of(size, key)]
            if peaks:
                smaller = [peak / _MIB for peak in of(sizes[place - 1], key)] if place else None
                rows.append(_row(what, size, "MiB", peaks, smaller, goals.GROWTH_MEMORY))
    return rows


def _row(
    what: str,
    size: int,
    unit: str,
    values: list[float],
    smaller: list[float] | None,
    goal: Mapping[int, Goal],
) -> Row:
    """A figure of a size, compared with that of the smaller size if there is one."""
    if not smaller:
        return row(what, size=size, ours=median(values), unit=unit)
    return comparison(what, values, smaller, size=size, unit=unit, goal=goals.at(goal, size))


def extraction(context: Context, sample: Path) -> dict[str, Any]:
    _ = context.model, context.code
    folder = context.fresh("growth-run")
    (folder / "sample").symlink_to(sample / "sample")
    use = context.extract(folder)
    return {
        "seconds": use.seconds,
        "inside": features_marker(folder).seconds,
        "cpu_by_role": cpu_by_role(use),
        "memory": use.memory,
        "jvm": use.peak_of("jvm"),
        "worker": use.peak_of("worker"),
        "all": use.peak_bytes,
    }
