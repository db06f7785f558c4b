"""Features compared with plain Keras in one process, and with other engines if they are installed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import goals, machine
from benchmarks.context import Context, Prepared, Sizes, answer, read_features, shard_times
from benchmarks.measure import interleaved, steady_rate
from benchmarks.report import Result, Row, comparison, row
from image_features.errors import JobError

SIZES = Sizes(quick={400: 2}, full={2_000: 3, 10_000: 1})


# Name and package of each job's engine, which is compared if the package is installed.
_ENGINES = {"ray_data": ("Ray Data", "ray"), "daft_engine": ("Daft", "daft")}


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for size, repeats in context.sizes(SIZES).items():
        prepared = context.folder_of(size)
        sides = {
            "ours": partial(ours, context, prepared),
            "keras": partial(keras_once, context, prepared),
        }
        engines = {job: name for job, (name, package) in _ENGINES.items() if machine.installed(package)}
        for job in engines:
            sides[job] = partial(engine, context, prepared, job)
        results = interleaved(sides, repeats, dict.fromkeys(engines, 1))
        runs[str(size)] = results
        seconds, theirs = ([r["seconds"] for r in results[side]] for side in ("ours", "keras"))
        rows.append(
            comparison(
                "features of a folder, from the command's start",
                seconds,
                theirs,
                size=size,
                theirs_over_ours=True,
                note="ours with packing and JVM start",
            )
        )
        for job, name in engines.items():
            of_engine = [r["seconds"] for r in results[job]]
            rows.append(
                comparison(
                    f"{name}, from the command's start",
                    seconds[: len(of_engine)],
                    of_engine,
                    size=size,
                    theirs_over_ours=True,
                    note="ours with packing and JVM start",
                )
            )
        steady = [r["steady"] for r in results["ours"] if r["steady"]]
        if len(steady) == repeats:
            rows.append(
                comparison(
                    "the loop alone",
                    steady,
                    [r["rate"] for r in results["keras"]],
                    size=size,
                    unit="images/s",
                    ratio_of="ours / theirs",
                    goal=goals.at(goals.KERAS_LOOP, size),
                )
            )
        rows.append(
            row(
                "largest relative difference of an image's features",
                size=size,
                ours=difference(context),
                unit="",
                note="of the last repeat",
                repeats=1,
            )
        )
    rows += [
        row(f"{name}: not installed", unit="")
        for name, package in _ENGINES.values()
        if not machine.installed(package)
    ]
    return Result(
        "keras",
        "features against plain Keras in one process",
        "their time / ours",
        None,
        rows,
        notes=[
            "Theirs: one process with TensorFlow's own threads on all cores. One predict call, after a "
            "warm-up batch, over batches of 32 that are decoded ahead by one thread for each core: no call "
            "overhead.",
            "Ray Data and Daft: one instance of the model on each core, each with one TensorFlow thread; "
            "batches of 32 as bytes, features to parquet. See requirements-engines.in.",
            "Ours, the loop alone: steady state of the extraction, see the benchmark `limit`.",
        ],
        runs=runs,
    )


def ours(context: Context, prepared: Prepared) -> dict[str, Any]:
    _ = context.model, context.code
    folder = context.fresh("keras-ours")
    seconds = context.sample(prepared.folder, folder).seconds + context.extract(folder).seconds
    times = shard_times(folder, context.cores)
    return {"seconds": seconds, "steady": steady_rate(times, context.cores)}


def keras_once(context: Context, prepared: Prepared) -> dict[str, Any]:
    folder = context.fresh("keras-theirs")
    arguments = [
        *("--images", str(prepared.folder)),
        *("--weights", context.weights),
        *("--output", str(folder / "features.npy")),
        *("--readers", str(context.cores)),
    ]
    use = context.script("keras_loop", arguments, folder / "log")
    result = answer(folder / "log")
    return {"seconds": use.seconds, "rate": result["images"] / result["loop_seconds"]}


def engine(context: Context, prepared: Prepared, job: str) -> dict[str, Any]:
    """Another engine over the same folder."""
    folder = context.fresh(job)
    arguments = [
        *("--images", str(prepared.folder)),
        *("--weights", context.weights),
        *("--output", str(folder / "features")),
        *("--cores", str(context.cores)),
    ]
    use = context.script(job, arguments, folder / "log")
    result = answer(folder / "log")
    if result["images"] != prepared.images:
        raise JobError(f"{job} gave features of {result['images']} of {prepared.images} images")
    return {"seconds": use.seconds, "inside": result["seconds"]}


def difference(context: Context) -> float:
    """Largest relative difference of an image's features, over the last run of both sides."""
    runs = context.work / "runs"
    theirs = np.load(runs / "keras-theirs" / "features.npy", allow_pickle=False)
    images, features = read_features(runs / "keras-ours" / "features")
    # Their script sorts Path objects, which compare part by part; the shards sort text.
    ours = features[sorted(range(len(images)), key=lambda n: Path(images[n]))]
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())
