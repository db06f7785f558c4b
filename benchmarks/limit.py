"""The extraction compared with the machine's limit: the same work in a bare loop."""

from __future__ import annotations

import multiprocessing
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.context import Context, Prepared, Sizes, seconds_to_marker, shard_times
from benchmarks.measure import interleaved, steady_rate
from benchmarks.report import Result, Row, comparison
from image_features.errors import JobError

SIZES = Sizes(quick={400: 2}, full={10_000: 3})
_OPENING_TIMEOUT = 600  # seconds for the processes to open their models


@dataclass(frozen=True)
class BareLoop:
    """One run of the bare loop, with one process on each core."""

    rate: float  # images a second, from the common start to the end of the slowest
    seconds: float
    cpu_seconds: float  # of the loops alone


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    notes: list[str] = []
    for size, repeats in context.sizes(SIZES).items():
        prepared = context.folder_of(size)
        sample = context.fresh(f"limit-sample-{size}")
        context.sample(prepared.folder, sample)
        _ = context.model, context.code
        results: dict[str, list[Any]] = interleaved(
            {
                "bare": partial(bare, context, prepared),
                "ours": partial(ours, context, sample),
            },
            repeats,
        )
        runs[str(size)] = results
        rows += _rows(size, results)
        if prepared.distinct < size:
            notes.append(f"{size:,} images are {prepared.distinct:,} under several names.")
    return Result(
        "limit",
        "extraction against a bare loop on the same cores",
        "ours / bare loop",
        None,
        rows,
        notes=[
            "Bare loop: one process on each core, which decodes and infers only. The images' bytes are in "
            "memory and split evenly, the models are open, and all processes start together.",
            "Steady state: tasks start in the plan's order as others finish, so the times of the objects "
            "give each shard's start and end. The window starts when each core has finished its first shard "
            "(which includes opening the model), and ends when a core first has no next task. A shard that "
            "is only partly inside the window counts by that share of its time.",
            *notes,
        ],
        runs=runs,
    )


def _rows(size: int, results: dict[str, list[Any]]) -> list[Row]:
    loop, extraction = results["bare"], results["ours"]
    rates = [r.rate for r in loop]
    rows = []
    for what, key, goal in (
        ("steady state", "steady", goals.at(goals.LIMIT_STEADY, size)),
        ("JVM start to _SUCCESS", "whole", goals.at(goals.LIMIT_WHOLE, size)),
    ):
        values = [r[key] for r in extraction if r[key]]
        if len(values) == len(loop):
            rows.append(comparison(what, values, rates, size=size, unit="images/s", goal=goal))
    cpu = [r["cpu_seconds"] for r in extraction if r["cpu_seconds"]]
    if len(cpu) == len(loop):
        bare_cpu = [r.cpu_seconds for r in loop]
        rows.append(
            comparison(
                "CPU seconds of all processes",
                cpu,
                bare_cpu,
                size=size,
                unit="CPU s",
                goal=goals.at(goals.LIMIT_CPU, size),
                note="other: its loops alone",
            )
        )
    return rows


def ours(context: Context, sample: Path, model: Path | None = None) -> dict[str, Any]:
    """Run one extraction; ``model`` replaces the float32 backbone."""
    folder = context.fresh("limit-ours")
    (folder / "sample").symlink_to(sample / "sample")
    use = context.extract(folder, model)
    times = shard_times(folder, context.cores)
    seconds = seconds_to_marker(folder, use)
    return {
        "steady": steady_rate(times, context.cores),
        "whole": sum(shard.images for task in times for shard in task) / seconds,
        "seconds_to_success": seconds,
        "cpu_seconds": use.cpu_seconds,
        "cpu_by_role": cpu_by_role(use),
    }


def cpu_by_role(use: Any) -> dict[str, float]:
    totals: dict[str, float] = {}
    for process in use.processes:
        totals[process.role] = round(totals.get(process.role, 0.0) + process.cpu_seconds, 2)
    return totals


def bare(context: Context, prepared: Prepared, model: Path | None = None) -> BareLoop:
    """Run the bare loop once over a folder; ``model`` replaces the float32 backbone."""
    files = sorted(path for path in prepared.folder.rglob("*") if path.is_file())
    parts = [files[first :: context.cores] for first in range(context.cores)]
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(context.cores)
    results = spawn.Queue()
    processes = [
        spawn.Process(target=_loop, args=(part, str(model or context.model), barrier, results))
        for part in parts
    ]
    for process in processes:
        process.start()
    try:
        spans = [_next(results, processes) for _ in processes]
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.terminate()
    begin, end = min(s[0] for s in spans), max(s[1] for s in spans)
    return BareLoop(len(files) / (end - begin), end - begin, sum(s[2] for s in spans))


def _next(results: Any, processes: Sequence[Any]) -> tuple[float, float, float]:
    """The next result of a process. Raises JobError as soon as a process has failed."""
    while True:
        try:
            span: tuple[float, float, float] = results.get(timeout=1)
            return span
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise JobError("a process of the bare loop failed; its error is printed above") from None


def _loop(files: Sequence[Path], model: str, barrier: Any, results: Any) -> None:
    from image_features.inference import Backbone, read_backbone

    spec, data = read_backbone(model)
    backbone = Backbone(data, spec)
    contents = [path.read_bytes() for path in files]
    barrier.wait(_OPENING_TIMEOUT)
    started, cpu = time.monotonic(), time.process_time()
    backbone.features(contents)
    results.put((started, time.monotonic(), time.process_time() - cpu))
