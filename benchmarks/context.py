"""The context of all benchmarks: the request, folders of images, the exported backbone, our stages."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import sampling, spark
from benchmarks.measure import ShardTime
from fruit_pipeline import settings
from fruit_pipeline.cluster import job_code
from fruit_pipeline.sample.draw import select_images
from fruit_pipeline.sample.drawn_images import KINDS, draw_folder
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source, SourceImage
from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    FeaturesMarker,
    PcaMarker,
    SampleMarker,
    shard_key,
)
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.extraction import bundles
from image_features.shards import read_shard
from image_features.storage import Storage, local_path

REPO = Path(__file__).resolve().parents[1]
COMPONENTS = 50

# Drawing takes about as long as extracting. Above this number, images are repeated under other names.
_MAX_DRAWN = 2_000


@dataclass(frozen=True)
class Sizes:
    """Sizes of a benchmark, quick and full, each with its number of repeats: long runs have one."""

    quick: Mapping[int, int]
    full: Mapping[int, int]
    least: int = 2  # the smallest scaled size


@dataclass(frozen=True)
class Prepared:
    """A folder with a given number of images."""

    folder: Path
    images: int
    distinct: int  # less than images if some are there under several names


@dataclass
class Context:
    """One call of the benchmarks: its options, and what its benchmarks share."""

    work: Path
    full: bool
    images: Path | None
    weights: str
    scale: float
    repeats: int | None
    cores: int
    export_seconds: float | None = field(default=None, init=False)  # None: taken from the cache

    def sizes(self, sizes: Sizes) -> dict[int, int]:
        """The distinct scaled sizes of this call, smallest first, each with its number of repeats."""
        chosen = sizes.full if self.full else sizes.quick
        return {
            max(sizes.least, round(size * self.scale)): self.times(chosen[size]) for size in sorted(chosen)
        }

    def times(self, repeats: int) -> int:
        """``repeats``, unless this call has its own number."""
        return self.repeats or repeats

    @property
    def settings(self) -> dict[str, Any]:
        """The options of this call for the results; only names of files, no paths of this machine."""
        return {
            "mode": "full" if self.full else "quick",
            "scale": self.scale,
            "cores": self.cores,
            "images": self.images.name if self.images else "drawn by code",
            "weights": Path(self.weights).name,
        }

    @cached_property
    def model(self) -> Path:
        """Folder of the exported backbone; exporting it is timed."""
        started = time.monotonic()
        cache = settings.load().cache_dir / "models"
        before = set(cache.glob("*/model.json"))
        model = self.export([])
        if set(cache.glob("*/model.json")) != before:
            self.export_seconds = time.monotonic() - started
        return model

    def export(self, options: list[str]) -> Path:
        """Export the backbone, or take it from the cache; returns its folder."""
        command = [sys.executable, "-m", "fruit_pipeline", "backbone", "--weights", self.weights, *options]
        target = self.work / "models"
        done = subprocess.run(
            [*command, "--output", str(target), "--json"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise JobError(f"the backbone cannot be exported: {_last_line(done.stderr)}")
        return local_path(json.loads(done.stdout)["uri"])

    @cached_property
    def code(self) -> Path:
        """Folder of the entry points and the zipped package, as a run uploads them."""
        job_code.upload(REPO, Storage(str(self.work / "code"), create=True))
        return self.work / "code"

    @cached_property
    def _source(self) -> tuple[Path, list[SourceImage]]:
        if self.images:
            # The suffix of the notebook's pathGlobFilter, so that all sides have the same images.
            listed = [i for i in Source(str(self.images)).list().images if i.image.endswith(".jpg")]
            if not listed:
                raise JobError(f"{self.images} has no .jpg images; expected <folder>/<label>/<image>.jpg")
            return self.images, listed
        folder = self.work / "drawn"
        count = _MAX_DRAWN if self.full else max(12, round(400 * min(1.0, self.scale)))
        draw_folder(folder, -(-count // len(KINDS)))
        return folder, Source(str(folder)).list().images

    def folder_of(self, size: int) -> Prepared:
        """A folder of ``size`` links to images, in label folders. Images are repeated if there are fewer."""
        source, listed = self._source
        folder = self.work / "images" / str(size)
        chosen = select_images(listed, SampleRequest(str(source), total=min(size, len(listed))))
        if not (folder.parent / f"{size}.whole").exists():
            shutil.rmtree(folder, ignore_errors=True)
            for number in range(size):
                turn, place = divmod(number, len(chosen))
                image = Path(chosen[place].image)
                target = folder / image.with_name(
                    f"{image.stem}-{turn}{image.suffix}" if turn else image.name
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(source / image, target)
            (folder.parent / f"{size}.whole").touch()
        return Prepared(folder, size, len(chosen))

    def fresh(self, name: str) -> Path:
        """An empty folder below the work folder."""
        folder = self.work / "runs" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def sample(self, images: Path, run: Path) -> sampling.Use:
        """Our first stage: pack the images of a folder."""
        command = [sys.executable, "-m", "fruit_pipeline", "sample", "--source", str(images), "--all"]
        return checked(
            [*command, "--output", f"file://{run}/sample", "--cores", str(self.cores)], run / "sample.log"
        )

    def extract(self, run: Path, model: Path | None = None) -> sampling.Use:
        """Our second stage, by spark-submit; ``model`` replaces the float32 backbone."""
        arguments = ["--sample", f"file://{run}/sample", "--model", f"file://{model or self.model}"]
        return self.submit(
            "extract_features.py", [*arguments, "--output", f"file://{run}/features"], run / "extract.log"
        )

    def reduce(self, features: Path, run: Path) -> sampling.Use:
        """Our third stage, by spark-submit."""
        arguments = ["--features", f"file://{features}", "--output", f"file://{run}/pca"]
        return self.submit("reduce_pca.py", [*arguments, "--components", str(COMPONENTS)], run / "reduce.log")

    def submit(self, script: str, arguments: list[str], log: Path) -> sampling.Use:
        options = ["--py-files", str(self.code / job_code.JOB_PACKAGE)]
        return spark.submit(self.code / script, arguments, self.cores, log, self.work / "spark", options)

    def job(self, name: str, arguments: list[str], log: Path) -> sampling.Use:
        """Run one of benchmarks/jobs by spark-submit, with more memory than our own steps have."""
        return spark.submit(
            REPO / "benchmarks" / "jobs" / f"{name}.py",
            arguments,
            self.cores,
            log,
            self.work / "spark",
            ["--driver-memory", "4g"],
            REPO,
        )

    def script(self, name: str, arguments: list[str], log: Path) -> sampling.Use:
        """Run one of benchmarks/jobs as a plain Python process."""
        return checked([sys.executable, "-m", f"benchmarks.jobs.{name}", *arguments], log)


def checked(command: list[str], log: Path) -> sampling.Use:
    """Run a command. Raises JobError with its last line if it fails."""
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
    use = sampling.run(command, log, env, REPO)
    if use.exit_code:
        raise JobError(f"{' '.join(command[:4])} failed; see {log}: {_last_line(log.read_text())}")
    return use


def answer(log: Path) -> dict[str, Any]:
    """The JSON of the last line with ``RESULT``, which a job of benchmarks/jobs printed."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("RESULT ")]
    if not lines:
        raise JobError(f"{log} holds no result")
    result: dict[str, Any] = json.loads(lines[-1].removeprefix("RESULT "))
    return result


def read_features(folder: Path) -> tuple[list[str], npt.NDArray[np.float32]]:
    """Images and features (rows, width) of a finished features prefix, in the order of its shards."""
    storage = Storage(str(folder))
    images: list[str] = []
    parts = []
    for number in range(len(list(folder.glob("shard-*.parquet")))):
        table = read_shard(storage, shard_key(number), FEATURES_SCHEMA, ["image", "features"])
        images += table.column("image").to_pylist()
        values = table.column("features").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        parts.append(values.reshape(table.num_rows, -1))
    return images, np.concatenate(parts)


def features_marker(run: Path) -> FeaturesMarker:
    return read_document(FeaturesMarker, Storage(str(run / "features")))


def pca_marker(run: Path) -> PcaMarker:
    return read_document(PcaMarker, Storage(str(run / "pca")))


def shard_times(run: Path, cores: int) -> list[list[ShardTime]]:
    """When each features shard of an extraction was written: one list for each task, in Spark's order."""
    plan = read_document(SampleMarker, Storage(str(run / "sample"))).shards
    times = [
        ShardTime(s.images, (run / "features" / shard_key(s.shard)).stat().st_mtime)
        for s in sorted(plan, key=lambda s: s.shard)
    ]
    return [[times[place] for place in bundle] for bundle in bundles(len(times), cores)]


def seconds_to_marker(run: Path, use: sampling.Use) -> float:
    """Seconds from the start of spark-submit to the features' _SUCCESS."""
    return (run / "features" / MARKER).stat().st_mtime - use.started


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _last_line(text: str) -> str:
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["no output"])[-1][:300]
