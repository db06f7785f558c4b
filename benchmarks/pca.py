"""PCA of features shards, compared with pyspark.ml and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import goals
from benchmarks.context import COMPONENTS, Context, Sizes, answer, pca_marker
from benchmarks.measure import interleaved
from benchmarks.notebook import variance_rows
from benchmarks.report import Result, Row, comparison
from image_features.contract import FEATURES_SCHEMA, MARKER, FeaturesMarker, FeaturesShard
from image_features.documents import to_json
from image_features.shards import list_array, write_shard
from image_features.storage import Storage

SIZES = Sizes(quick={2_000: 2}, full={10_000: 3, 50_000: 3, 100_000: 1}, least=COMPONENTS + 1)
WIDTH = 1280
_RANK = 80
_SHARD_ROWS = 1000


def run(context: Context) -> Result:
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    for size, repeats in context.sizes(SIZES).items():
        source = context.fresh("pca-source")
        write_features(Storage(str(source / "features"), create=True), size)
        results = interleaved(
            {
                "ours": partial(ours, context, source),
                "pyspark.ml": partial(spark_ml, context, source),
                "scikit-learn": partial(sklearn, context, source),
            },
            repeats,
        )
        runs[str(size)] = results
        rows += [replace(item, repeats=repeats) for item in _rows(size, results)]
    return Result(
        "pca",
        f"PCA {WIDTH:,} to {COMPONENTS}, fit and transform",
        "their time / ours",
        max(context.sizes(SIZES).values()),
        rows,
        notes=[
            f"Input: float32 features shards of {_SHARD_ROWS:,} rows, of rank {_RANK} plus noise, generated "
            "with a fixed seed. Ours and pyspark.ml write their embeddings; scikit-learn does not.",
            "Without JVM start: from the start of the Spark session to the last write.",
            "With fewer rows than features, pyspark.ml's PCA kept far too little variance in a test "
            f"(1,000 x {WIDTH:,}): its covariance was exact, the steps after it were not. The sizes of "
            "--quick and --full have more rows.",
            "scikit-learn: float32 in one process with all BLAS threads, the faster of svd_solver="
            '"full" and "covariance_eigh"; ours computes in float64.',
        ],
        runs=runs,
    )


def _rows(size: int, results: dict[str, list[dict[str, Any]]]) -> list[Row]:
    def of(side: str, key: str) -> list[float]:
        return [r[key] for r in results[side]]

    solver = min(("full", "covariance_eigh"), key=lambda name: median(of("scikit-learn", name)))
    computing = of("scikit-learn", solver)
    reading = [a + b for a, b in zip(computing, of("scikit-learn", "read"), strict=True)]
    whole, inside = of("ours", "whole"), of("ours", "inside")
    theirs, exact = of("pyspark.ml", "variance_kept")[0], of("scikit-learn", "variance_kept")[0]
    # The time of a wrong answer is shown without a goal.
    correct = goals.VARIANCE_KEPT.reached(abs(theirs - exact))
    goal = goals.at(goals.PCA_SPARK_ML, size) if correct else None
    in_memory = goals.at(goals.PCA_SKLEARN, size)
    sides = (
        ("pyspark.ml, with JVM start", of("pyspark.ml", "whole"), whole, goal),
        ("pyspark.ml, without JVM start", of("pyspark.ml", "inside"), inside, goal),
        (f"scikit-learn ({solver}) with reading; ours without JVM start", reading, inside, None),
        (f"scikit-learn ({solver}) with reading; ours with JVM start", reading, whole, None),
        (f"scikit-learn ({solver}) in memory; ours without JVM start", computing, inside, in_memory),
    )
    rows = [
        comparison(what, us, them, size=size, theirs_over_ours=True, goal=bound)
        for what, them, us, bound in sides
    ]
    # scikit-learn is the reference, since either pyspark.ml or ours could be wrong.
    return rows + variance_rows("pyspark.ml", size, of("ours", "variance_kept")[0], theirs, exact)


def ours(context: Context, source: Path) -> dict[str, Any]:
    _ = context.code
    folder = context.fresh("pca-ours")
    use = context.reduce(source / "features", folder)
    marker = pca_marker(folder)
    return {
        "whole": use.seconds,
        "inside": marker.seconds,
        "variance_kept": marker.variance_kept,
        "peak_bytes": use.peak_bytes,
    }


def spark_ml(context: Context, source: Path) -> dict[str, Any]:
    folder = context.fresh("pca-ml")
    arguments = ["--features", f"file://{source}/features", "--output", f"file://{folder}/pca"]
    use = context.job("ml_pca", [*arguments, "--components", str(COMPONENTS)], folder / "log")
    result = answer(folder / "log")
    return {
        "whole": use.seconds,
        "inside": result["seconds"],
        "variance_kept": result["variance_kept"],
        "peak_bytes": use.peak_bytes,
    }


def sklearn(context: Context, source: Path) -> dict[str, Any]:
    folder = context.fresh("pca-sklearn")
    arguments = ["--features", str(source / "features"), "--components", str(COMPONENTS)]
    use = context.script("sklearn_pca", arguments, folder / "log")
    return {"whole": use.seconds, "peak_bytes": use.peak_bytes, **answer(folder / "log")}


def write_features(storage: Storage, rows: int, width: int = WIDTH) -> None:
    """Write a finished features prefix of low rank plus noise. The same size gives the same values."""
    rng = np.random.default_rng(0)
    basis = (
        rng.standard_normal((_RANK, width), np.float32)
        * (0.95 ** np.arange(_RANK, dtype=np.float32))[:, None]
    )
    mean = rng.random(width, np.float32)
    shards = []
    for number, first in enumerate(range(0, rows, _SHARD_ROWS)):
        count = min(_SHARD_ROWS, rows - first)
        values = rng.standard_normal((count, _RANK), np.float32) @ basis + mean
        values += 0.1 * rng.standard_normal((count, width), np.float32)
        info = FeaturesShard(number, count, count, {}, f"made-{rows}-{number}")
        names = [f"label/{first + n:06d}.jpg" for n in range(count)]
        columns = {
            "image": names,
            "label": ["label"] * count,
            "sha256": ["0" * 64] * count,
            "features": list_array(values),
        }
        write_shard(storage, FEATURES_SCHEMA, columns, info)
        shards.append(info)
    marker = FeaturesMarker(
        images=rows,
        features=rows,
        rejects=0,
        rejects_by_reason={},
        width=width,
        model_digest="made",
        backbone="none",
        weights="none",
        preprocessing="none",
        shards=shards,
        computed_shards=len(shards),
        seconds=0.0,
    )
    storage.put(MARKER, to_json(marker))
