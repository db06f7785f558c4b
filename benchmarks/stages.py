"""Where the time of a run goes: one demo, and one shard's work taken apart."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np

from benchmarks.context import COMPONENTS, Context, Sizes, checked, features_marker
from benchmarks.report import Result, Row, row
from image_features.contract import (
    SAMPLE_SCHEMA,
    PcaMarker,
    RunLayout,
    SampleMarker,
    read_document,
    shard_key,
)
from image_features.extraction import ExtractionJob, extract_shard
from image_features.images import Preprocessor, decode_rgb
from image_features.inference import Backbone, read_backbone
from image_features.shards import read_shard
from image_features.storage import Storage

SIZES = Sizes(quick=(400,), full=(10_000,), quick_repeats=1, full_repeats=1)

# Measured beside the whole that the other parts of their group are shares of.
_BESIDE = ("packing the sample", "PCA, whole", "PCA inside the session", "opening the model, once a worker")


def run(context: Context) -> Result:
    size = context.sizes(SIZES)[-1]
    repeats = context.repeats_of(SIZES)
    images = context.folder_of(size).folder
    demos = [demo(context, images) for _ in range(repeats)]
    submits = [submit(context, images) for _ in range(repeats)]
    shards = [one_shard(context) for _ in range(repeats)]
    rows: list[Row] = []
    for found, whole, name in (
        (demos, "the demo, whole", "the demo"),
        (submits, "spark-submit of the extraction, whole", "spark-submit"),
        (shards, "one shard, whole", "one shard"),
    ):
        total = _median(found, whole)
        for what in found[0]:
            seconds = _median(found, what)
            part = what if what == whole else f"{name}: {what}"
            share = seconds / total if total and what not in _BESIDE else None
            rows.append(row(part, ours=seconds, ratio=share))
    return Result(
        "stages",
        f"where the time of a run of {size:,} images goes",
        "share of the whole",
        repeats,
        rows,
        notes=[
            "The demo starts from an empty work folder: Airflow's database is made in it. Its cluster is "
            "local; its stages partly run side by side, so their shares add up to more than what is left.",
            "One shard: the real functions in this process on one core; inference is the time of "
            "Backbone.features less decoding and preprocessing.",
        ],
        runs={"demo": demos, "spark-submit": submits, "one shard": shards},
    )


def _median(found: list[dict[str, float]], what: str) -> float:
    return float(np.median([r[what] for r in found if what in r]))


def demo(context: Context, images: Path) -> dict[str, float]:
    """Run the demo and read its clocks: Airflow's database and the run's summary."""
    import sys

    folder = context.fresh("demo")
    command = [sys.executable, "-m", "fruit_pipeline.demo", "--images", str(images)]
    command += ["--weights", context.weights, "--components", str(COMPONENTS)]
    command += ["--work", str(folder / "work"), "--output", str(folder / "output")]
    use = checked(command, folder / "log")
    summary = json.loads(next((folder / "output").glob("*/summary.json")).read_text())
    tasks = task_times(folder / "work" / "airflow" / "airflow.db")
    first, last = min(t[0] for t in tasks.values()), max(t[1] for t in tasks.values())
    found = {
        "the demo, whole": use.seconds,
        "local AWS, Airflow's database and start": first - use.started,
        **{stage: float(seconds) for stage, seconds in summary["seconds"].items()},
        "copying and printing the result": use.started + use.seconds - last,
    }
    found |= {f"task {name}": end - start for name, (start, end) in tasks.items()}
    return found


def task_times(database: Path) -> dict[str, tuple[float, float]]:
    """Start and end of each task of the last run, as seconds of the epoch."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT task_id, start_date, end_date FROM task_instance WHERE end_date IS NOT NULL "
            "AND start_date IS NOT NULL AND run_id = (SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1) "
            "ORDER BY start_date"
        ).fetchall()
    return {name: (_epoch(start), _epoch(end)) for name, start, end in rows}


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    # Airflow keeps UTC; SQLite drops the zone.
    return (moment if moment.tzinfo else datetime.fromisoformat(f"{text}+00:00")).timestamp()


def submit(context: Context, images: Path) -> dict[str, float]:
    """Both steps through spark-submit, split into what is inside the session and what is around it."""
    _ = context.model, context.code
    folder = context.fresh("stages")
    packing = context.sample(images, folder).seconds
    extract, reduce = context.extract(folder), context.reduce(folder / "features", folder)
    inside = features_marker(folder).seconds
    pca = read_document(PcaMarker, Storage(str(folder / "pca"))).seconds
    return {
        "spark-submit of the extraction, whole": extract.seconds,
        "JVM and session, start and end": extract.seconds - inside,
        "extraction inside the session": inside,
        "packing the sample": packing,
        "PCA, whole": reduce.seconds,
        "PCA inside the session": pca,
    }


def one_shard(context: Context) -> dict[str, float]:
    """One shard of the last extraction again, in this process, part by part."""
    run = context.work / "runs" / "stages"
    layout = RunLayout(f"file://{run}")
    shard = read_document(SampleMarker, Storage(layout.sample)).shards[0]
    clock = _Clock()
    spec, model = read_backbone(str(context.model))
    backbone = Backbone(model, spec)
    opened = clock.lap()
    table = read_shard(Storage(layout.sample), shard_key(shard.shard), SAMPLE_SCHEMA)
    contents = table.column("content").to_pylist()
    read = clock.lap()
    for content in contents:
        hashlib.sha256(content).hexdigest()
    digests = clock.lap()
    pixels = [decode_rgb(content, spec.input_size) for content in contents]
    decode = clock.lap()
    preprocessor = Preprocessor(spec.preprocessing)
    out = np.empty((spec.input_size, spec.input_size, 3), np.float32)
    for rgb in pixels:
        preprocessor.fill(rgb, out)
    preprocess = clock.lap()
    backbone.features(contents)
    features = clock.lap()
    job = ExtractionJob(layout.sample, f"file://{run}/one", f"file://{run}/one-rejects", spec, model)
    Storage(job.output, create=True)
    Storage(job.rejects, create=True)
    clock.lap()
    extract_shard(shard, job, backbone)
    whole = clock.lap()
    return {
        "one shard, whole": whole,
        "opening the model, once a worker": opened,
        "reading": read,
        "digests": digests,
        "decoding and resizing": decode,
        "preprocessing": preprocess,
        "inference": max(0.0, features - decode - preprocess),
        "writing and the rest": max(0.0, whole - read - digests - features),
    }


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        lap, self._last = now - self._last, now
        return lap
