"""A million images through the whole pipeline: time, memory and requests to S3 of each stage.

Images of 850 bytes drawn by code, a real sample, a real PCA, real checks, a real report, all over HTTP to
the local AWS's S3. Only a twentieth of the images is extracted, at most 50,000: the cost of an image does not
depend on their number (see growth). The other features are random. No Airflow: its tasks call the same
functions.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import load_data, sampling
from benchmarks.context import COMPONENTS, REPO, Context, Sizes, answer, checked
from benchmarks.jobs.counting_s3 import COUNTS
from benchmarks.report import Result, Row, row
from image_features.contract import MODEL_JSON, BackboneSpec, FeaturesMarker
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.storage import Storage

SIZES = Sizes(quick={2_000: 1, 4_000: 1}, full={100_000: 1, 1_000_000: 1}, least=200)
BUCKET = "load"
LABELS = 1_000
CORES = 8  # of the cluster, which decides the number of shards
_EXTRACTED = 50_000
_MIB = 2**20
_ROLES = ("python", "jvm", "worker")


@dataclass(frozen=True)
class Server:
    """The local AWS's S3, in a process that counts its requests."""

    endpoint: str

    def counts(self) -> dict[str, int]:
        with urllib.request.urlopen(f"{self.endpoint}{COUNTS}", timeout=60) as reply:  # noqa: S310
            return dict(json.load(reply))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "load",
            "AWS_SECRET_ACCESS_KEY": "load",
            "AWS_REGION": "eu-west-3",
            "AWS_DEFAULT_REGION": "eu-west-3",
        }


@contextlib.contextmanager
def served() -> Iterator[Server]:
    """Serve an empty bucket as S3, for this process and for those that it starts."""
    import boto3

    command = [sys.executable, "-m", "benchmarks.jobs.counting_s3"]
    before = dict(os.environ)
    with subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            server = Server(process.stdout.readline().strip())
            if not server.endpoint:
                raise JobError("the local AWS did not start")
            os.environ.update(server.environment)
            where: Any = {"LocationConstraint": "eu-west-3"}
            boto3.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
            yield server
        finally:
            os.environ.clear()
            os.environ.update(before)
            process.kill()


def run(context: Context) -> Result:
    sizes = list(context.sizes(SIZES))
    runs: dict[str, list[dict[str, Any]]] = {}
    with served() as server:
        for size in sizes:
            images = context.work / "tiny" / str(size)
            load_data.draw(images, size, min(LABELS, size))
            runs[str(size)] = [_stages(context, server, images, size)]
    return Result(
        "load",
        "very many images, stage by stage",
        "this size / the one before",
        1,
        _rows(sizes, {size: stages for size, [stages] in runs.items()}),
        notes=[
            f"JPEGs of {load_data.PIXELS} x {load_data.PIXELS} pixels and 850 bytes, {load_data.PICTURES} "
            f"pictures, every file with different bytes, {LABELS:,} labels; alpha 0.35 at 96 pixels. "
            "The column other has the smaller size's figure.",
            f"A twentieth is extracted, at most {_EXTRACTED:,}. The PCA and the later stages use random "
            f"features (1,280 wide, of rank 80 plus noise), {COMPONENTS} components.",
            "Requests: all requests to S3. It is a Python process on the same cores, so the times include "
            "its own. An object above 5 MiB is sent in parts: a POST, a PUT for each part, a POST. Any other "
            "POST is a deletion.",
            "Memory: peak PSS of one process, or RSS where PSS cannot be read.",
        ],
        runs=runs,
    )


def _stages(context: Context, server: Server, images: Path, size: int) -> dict[str, Any]:
    """The figures of every stage, by its name."""
    root, part = f"s3://{BUCKET}/runs/{size}", f"s3://{BUCKET}/runs/part-{size}"
    logs = context.fresh(f"load-{size}")
    model = context.export(["--alpha", "0.35", "--input-size", "96"])
    stages: dict[str, Any] = {}

    def measure(name: str, work: Callable[[Path], sampling.Use], **more: Any) -> dict[str, Any]:
        before = server.counts()
        use = work(logs / f"{name}.log")
        after = server.counts()
        stages[name] = {
            "seconds": use.seconds,
            "requests": {
                kind: n - before.get(kind, 0) for kind, n in after.items() if n > before.get(kind, 0)
            },
            "peaks": {role: peak for role in _ROLES if (peak := use.peak_of(role))},
            **more,
        }
        print(f"  {size:,} {name}: {stages[name]}", flush=True)
        return dict(stages[name])

    def command(name: str, *arguments: str) -> dict[str, Any]:
        return measure(name, lambda log: checked([sys.executable, "-m", *arguments], log))

    def submit(name: str, script: str, *arguments: str) -> dict[str, Any]:
        return measure(name, lambda log: context.submit(script, list(arguments), log))

    drawn = ["--source", str(images), "--cores", str(CORES)]
    command(
        "draw and pack the sample",
        *("fruit_pipeline", "sample"),
        *drawn,
        "--all",
        "--output",
        f"{root}/sample",
    )
    command("estimate", "fruit_pipeline", "estimate", "--images", str(size), "--shape", "standard")
    few = max(100, min(_EXTRACTED, size // 20))
    command(
        "draw a part of it",
        *("fruit_pipeline", "sample"),
        *drawn,
        "--total",
        str(few),
        "--output",
        f"{part}/sample",
    )
    extract = ["--model", f"file://{model}", "--sample"]
    submit(
        f"extract {few:,}", "extract_features.py", *extract, f"{part}/sample", "--output", f"{part}/features"
    )
    before = server.counts()
    spec = read_document(BackboneSpec, Storage(model), MODEL_JSON)
    marker: FeaturesMarker = load_data.draw_features(root, spec)
    stages["features"] = {"bytes": server.counts()["bytes sent"] - before["bytes sent"]}
    submit(
        "extract again, all shards exist",
        "extract_features.py",
        *(*extract, f"{root}/sample", "--output", f"{root}/features"),
    )
    for stage in ("extraction", "pca"):
        if stage == "pca":
            submit(
                "reduce with PCA",
                "reduce_pca.py",
                *("--features", f"{root}/features", "--output", f"{root}/pca"),
                *("--components", str(min(COMPONENTS, size))),
            )
        log = logs / f"poll the progress of {stage}.log"
        command(log.stem, "benchmarks.jobs.poll_progress", "--run", root, "--stage", stage)
        stages[log.stem] |= {"shards": len(marker.shards), **answer(log)}
    command("check", "fruit_pipeline", "check", "--run", root)
    command("report", "fruit_pipeline", "report", "--run", root, "--output", str(logs / "report.html"))
    stages["report"]["bytes"] = (logs / "report.html").stat().st_size
    objects = list(Storage(root).list())
    stages["objects"] = {"count": len(objects), "bytes": sum(stored.size for stored in objects)}
    return stages


_NAMES = {"python": "Python", "jvm": "JVM", "worker": "a worker"}


def _rows(sizes: list[int], stages: dict[str, dict[str, Any]]) -> list[Row]:
    """A row for each figure and size, with the smaller size's figure."""
    rows = []
    for before, size in pairwise([None, *sizes]):
        assert size is not None
        smaller = _figures(stages[str(before)]) if before else {}
        for (what, unit), value in _figures(stages[str(size)]).items():
            other = smaller.get((what, unit))
            share = value / other if other else None
            rows.append(row(what, size=size, ours=value, other=other, unit=unit, ratio=share))
    return rows


def _figures(stages: dict[str, Any]) -> dict[tuple[str, str], float]:
    """Value of each figure, by its name and unit."""
    figures: dict[tuple[str, str], float] = {}
    for name, stage in stages.items():
        if "requests" not in stage:
            continue
        name = "extract a part" if name.startswith("extract ") and "again" not in name else name
        figures[name, "s"] = stage["seconds"]
        for role, peak in stage["peaks"].items():
            figures[f"{name}: memory, {_NAMES[role]}", "MiB"] = peak / _MIB
        counted = {kind: n for kind, n in stage["requests"].items() if kind != "bytes sent"}
        if counted:
            figures[f"{name}: requests to S3", ""] = sum(counted.values())
    figures["objects of the run in S3", ""] = stages["objects"]["count"]
    figures["bytes of the run in S3", "MiB"] = stages["objects"]["bytes"] / _MIB
    figures["report.html", "MiB"] = stages["report"]["bytes"] / _MIB
    return figures
