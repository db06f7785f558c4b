"""The time of each stage of a run: of a demo, of spark-submit, and of the parts of one shard."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import time
from contextlib import closing
from datetime import datetime
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import goals
from benchmarks.context import COMPONENTS, Context, Sizes, checked, features_marker
from benchmarks.report import Result, Row, row
from fruit_pipeline.demo.run import PER_LABEL
from fruit_pipeline.run.summary import from_json
from fruit_pipeline.sample.drawn_images import KINDS, draw_folder
from image_features.contract import PcaMarker, RunLayout, SampleMarker
from image_features.documents import read_document
from image_features.extract_worker import ExtractionJob, extract, write
from image_features.images import Preprocessor, decode_rgb
from image_features.inference import Backbone, read_backbone
from image_features.sample_reader import SampleReader
from image_features.storage import Storage

SIZES = Sizes(quick={400: 1}, full={10_000: 1}, least=COMPONENTS + 1)

# Parts that are measured separately, so they are not shares of their group's total.
_SEPARATE = ("packing the sample", "PCA, whole", "PCA inside the session", "opening the model, once a worker")


def run(context: Context) -> Result:
    [(size, repeats)] = context.sizes(SIZES).items()
    images = context.folder_of(size).folder
    demos, second = [], []
    for _ in range(repeats):
        demos.append(demo(context, images))
        second.append(second_demo(context))
    submits = [submit(context, images) for _ in range(repeats)]
    shards = [one_shard(context) for _ in range(repeats)]
    rows: list[Row] = []
    for measurements, whole, name in (
        (demos, "the demo, whole", "the demo"),
        (submits, "spark-submit of the extraction, whole", "spark-submit"),
        (shards, "one shard, whole", "one shard"),
    ):
        total = _median(measurements, whole)
        for what in measurements[0]:
            took = _median(measurements, what)
            part = what if what == whole else f"{name}: {what}"
            share = took / total if total and what not in _SEPARATE else None
            rows.append(row(part, size=size, ours=took, ratio=share))
    rows += _second_rows(second)
    return Result(
        "stages",
        f"time of each stage of a run of {size:,} images",
        "share of the total",
        repeats,
        rows,
        notes=[
            "The demo starts from an empty work folder, so it creates Airflow's database. Its cluster is "
            "local. Some stages run at the same time, so the shares add up to more than 1.",
            "The second run uses the same work folder, which has Airflow's database, the exported backbone "
            "and the drawn images. It is measured from the command's start to its end.",
            "One shard: the real functions one after another, in this process on one core. In a task, the "
            "next shard is read and the last one written at the same time. Inference is the total computing "
            "time minus decoding and preprocessing, which are measured alone.",
        ],
        runs={"demo": demos, "spark-submit": submits, "one shard": shards},
    )


def _second_rows(demos: list[dict[str, float]]) -> list[Row]:
    whole = "the demo, whole"
    rows = [
        row(
            f"{whole}, second run, drawn images",
            size=len(KINDS) * PER_LABEL,
            ours=_median(demos, whole),
            goal=goals.DEMO_SECOND_RUN,
        )
    ]
    for what in demos[0]:
        if what != whole and not what.startswith("task "):
            took = _median(demos, what)
            share = took / _median(demos, whole)
            rows.append(row(f"second run: {what}", size=len(KINDS) * PER_LABEL, ours=took, ratio=share))
    return rows


def _median(measurements: list[dict[str, float]], what: str) -> float:
    return median(seconds[what] for seconds in measurements if what in seconds)


def demo(context: Context, images: Path) -> dict[str, float]:
    """Run the demo over a folder, from an empty work folder."""
    context.fresh("demo")
    return _demo(context, ["--images", str(images)])


def second_demo(context: Context) -> dict[str, float]:
    """Run the demo again in the same work folder, with drawn images. They are drawn before it starts."""
    draw_folder(context.work / "runs" / "demo" / "work" / "drawn", PER_LABEL)
    return _demo(context, [])


def _demo(context: Context, options: list[str]) -> dict[str, float]:
    """Run the demo. Its times are read from Airflow's database and the run's summary."""
    folder = context.work / "runs" / "demo"
    output = folder / "output"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, "-m", "fruit_pipeline", "demo", *options]
    command += ["--weights", context.weights, "--components", str(COMPONENTS)]
    command += ["--work", str(folder / "work"), "--output", str(output)]
    use = checked(command, folder / "log")
    file = next(output.glob("*/summary.json"))
    summary = from_json(file.read_bytes(), str(file))
    tasks = task_times(folder / "work" / "airflow" / "airflow.db")
    first, last = min(t[0] for t in tasks.values()), max(t[1] for t in tasks.values())
    seconds_of = {
        "the demo, whole": use.seconds,
        "local AWS, Airflow's database and start": first - use.started,
        **{stage: float(seconds) for stage, seconds in summary.seconds.items()},
        "copying and printing the result": use.started + use.seconds - last,
    }
    seconds_of |= {f"task {name}": end - start for name, (start, end) in tasks.items()}
    return seconds_of


def task_times(database: Path) -> dict[str, tuple[float, float]]:
    """Start and end of each task of the last run, in seconds since the epoch."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT task_id, start_date, end_date FROM task_instance WHERE end_date IS NOT NULL "
            "AND start_date IS NOT NULL AND run_id = (SELECT run_id FROM dag_run ORDER BY id DESC LIMIT 1) "
            "ORDER BY start_date"
        ).fetchall()
    return {name: (_epoch(start), _epoch(end)) for name, start, end in rows}


def _epoch(text: str) -> float:
    moment = datetime.fromisoformat(text)
    # Airflow stores UTC; SQLite drops the time zone.
    return (moment if moment.tzinfo else datetime.fromisoformat(f"{text}+00:00")).timestamp()


def submit(context: Context, images: Path) -> dict[str, float]:
    """Run both steps by spark-submit; seconds inside and outside the Spark session."""
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
    """Extract one shard of the last extraction again, in this process; seconds of each part."""
    run = context.work / "runs" / "stages"
    layout = RunLayout(f"file://{run}")
    marker = read_document(SampleMarker, Storage(layout.sample))
    shard = marker.shards[0]
    spec, model = read_backbone(str(context.model))
    job = ExtractionJob(layout.sample, marker, f"file://{run}/one", f"file://{run}/one-rejects", spec, model)
    for prefix in (job.output, job.rejects):
        Storage(prefix, create=True)
    reader = SampleReader(Storage(layout.sample), marker)
    clock = _Clock()
    backbone = Backbone(model, spec)
    opening = clock.lap()
    images = reader.read(shard)
    reading = clock.lap()
    extracted = extract(shard, images, job, backbone)
    computing = clock.lap()
    write(extracted, job)
    writing = clock.lap()
    pixels = [decode_rgb(content, spec.input_size) for content in images.contents]
    decoding = clock.lap()
    preprocessor = Preprocessor(spec.preprocessing)
    out = np.empty((spec.input_size, spec.input_size, 3), np.float32)
    for rgb in pixels:
        preprocessor.fill(rgb, out)
    preprocessing = clock.lap()
    return {
        "one shard, whole": reading + computing + writing,
        "opening the model, once a worker": opening,
        "reading, with the digests": reading,
        "decoding and resizing": decoding,
        "preprocessing": preprocessing,
        "inference and the rest": max(0.0, computing - decoding - preprocessing),
        "writing": writing,
    }


class _Clock:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        now = time.monotonic()
        lap, self._last = now - self._last, now
        return lap
