"""Features against plain Keras in one process, and against other engines where they are installed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import goals, machine
from benchmarks.context import Context, Prepared, Sizes, answer, read_features, shard_times
from benchmarks.measure import interleaved, median, ratio, steady_rate
from benchmarks.report import Result, Row, row

SIZES = Sizes(quick=(400,), full=(2_000, 10_000), quick_repeats=2)


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    repeats = context.repeats_of(SIZES)
    for size in context.sizes(SIZES):
        prepared = context.folder_of(size)
        found = interleaved(
            {
                "ours": partial(ours, context, prepared),
                "keras": partial(keras_once, context, prepared),
            },
            repeats,
        )
        runs[str(size)] = found
        seconds, theirs = ([r["seconds"] for r in found[side]] for side in ("ours", "keras"))
        rows.append(
            row(
                "features of a folder, from the command's start",
                size=size,
                ours=median(seconds),
                other=median(theirs),
                ratio=ratio(theirs, seconds),
                note="ours with packing and JVM start",
            )
        )
        steady = [r["steady"] for r in found["ours"] if r["steady"]]
        if len(steady) == repeats:
            loop = [r["rate"] for r in found["keras"]]
            rows.append(
                row(
                    "the loop alone",
                    size=size,
                    ours=median(steady),
                    other=median(loop),
                    unit="images/s",
                    ratio=ratio(steady, loop),
                    goal=goals.KERAS_LOOP,
                )
            )
        rows.append(
            row(
                "largest relative difference of an image's features",
                size=size,
                ours=difference(context),
                unit="",
            )
        )
    rows += [
        row(f"{name}: {'no comparison written' if machine.installed(package) else 'not installed'}")
        for name, package in (("Ray Data", "ray"), ("Daft", "daft"))
    ]
    return Result(
        "keras",
        "features against plain Keras in one process",
        "their time / ours",
        repeats,
        rows,
        notes=[
            "Theirs: one process with TensorFlow's own threads on all cores; one predict call over batches "
            "of 32 that as many threads as cores decode ahead, after a warm-up batch: no call overhead.",
            "Ours, the loop alone: steady state of the extraction, see the benchmark `limit`.",
        ],
        runs=runs,
    )


def ours(context: Context, prepared: Prepared) -> dict[str, Any]:
    _ = context.model, context.code
    folder = context.fresh("keras-ours")
    seconds = context.sample(prepared.folder, folder).seconds + context.extract(folder).seconds
    return {"seconds": seconds, "steady": steady_rate(shard_times(folder), context.cores)}


def keras_once(context: Context, prepared: Prepared) -> dict[str, Any]:
    folder = context.fresh("keras-theirs")
    arguments = [
        *("--images", str(prepared.folder)),
        *("--weights", context.weights),
        *("--output", str(folder / "features.npy")),
        *("--readers", str(context.cores)),
    ]
    use = context.script("keras_loop", arguments, folder / "log")
    found = answer(folder / "log")
    return {"seconds": use.seconds, "rate": found["images"] / found["loop_seconds"]}


def difference(context: Context) -> float:
    """Over the last pair of runs: both sides list the files in order of their paths."""
    runs = context.work / "runs"
    theirs = np.load(runs / "keras-theirs" / "features.npy")
    images, features = read_features(runs / "keras-ours" / "features")
    # Paths are compared part by part there, as text here.
    order = sorted(range(len(images)), key=lambda n: Path(images[n]))
    found = features[order]
    return float((np.linalg.norm(found - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())
