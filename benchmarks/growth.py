"""Growth of the extraction's time and memory with the number of images."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import goals
from benchmarks.context import Context, Sizes, features_marker
from benchmarks.limit import cpu_by_role
from benchmarks.measure import interleaved, ratio
from benchmarks.report import Result, Row, row

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
        rows.append(
            row(
                f"marginal time of an image, from {small:,} on",
                size=large,
                ours=median(marginal),
                other=median(before) if before else None,
                unit="ms",
                ratio=ratio(marginal, before) if before else None,
                goal=goals.at(goals.GROWTH_TIME, large) if before else None,
            )
        )
        before = marginal
    for what, key in (("driver's JVM, peak", "jvm"), ("a Python worker, peak", "worker")):
        for place, size in enumerate(sizes):
            peaks = of(size, key)
            if peaks:
                rows.append(_memory_row(what, size, peaks, of(sizes[place - 1], key) if place else None))
    return rows


def _memory_row(what: str, size: int, peaks: list[float], smaller: list[float] | None) -> Row:
    goal = goals.at(goals.GROWTH_MEMORY, size) if smaller else None
    return row(
        what,
        size=size,
        ours=median(peaks) / _MIB,
        other=median(smaller) / _MIB if smaller else None,
        unit="MiB",
        ratio=ratio(peaks, smaller) if smaller else None,
        goal=goal,
    )


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
