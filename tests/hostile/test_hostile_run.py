"""Hostile images through the real step on a real Spark: rows, rejects, and a worker without memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bombs import DECODE, LIMIT, bombs, encoded
from PIL import Image

from fruit_pipeline.cluster.job_code import package
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.contract import RejectReason
from image_features.storage import Storage
from local_emr.node.java import find_java_home

pytestmark = pytest.mark.e2e

REASONS = {reason.value for reason in RejectReason}


@dataclass(frozen=True)
class Extraction:
    """One run of the step in a folder of its own."""

    root: Path
    model: Path
    jobs: Path

    @property
    def success(self) -> Path:
        return self.root / "features" / "_SUCCESS"

    def pack(self, source: Path) -> None:
        write_sample(
            SampleRequest(str(source), cores=1), Source(source), Storage(self.root / "sample", create=True)
        )

    def run(self, *options: str, conf: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """``spark-submit``, as a node runs it; a task may fail twice."""
        archive = self.root / "image_features.zip"
        archive.write_bytes(package(self.jobs / "image_features"))
        submit = Path(sys.executable).with_name("spark-submit")
        settings = [f"--conf={name}={value}" for name, value in (conf or {}).items()]
        command = [str(submit), "--master", "local[2,2]", *settings, "--py-files", str(archive)]
        command += [str(self.jobs / "extract_features.py"), "--sample", str(self.root / "sample")]
        command += ["--model", str(self.model), "--output", str(self.root / "features"), *options]
        # The zip is what is tested, not what is installed beside it.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment = kept | {"JAVA_HOME": str(find_java_home()), "PYSPARK_PYTHON": sys.executable}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    def rows(self, folder: str) -> dict[str, dict[str, Any]]:
        columns = ["image", "label"] + (["reason", "detail"] if folder == "rejects" else [])
        shards = sorted((self.root / folder).glob("shard-*"))
        found = [row for shard in shards for row in pq.read_table(shard, columns=columns).to_pylist()]
        assert len({row["image"] for row in found}) == len(found)
        return {row["image"]: row for row in found}


@pytest.fixture
def step(tmp_path: Path, random_backbone: Path, repo: Path) -> Extraction:
    return Extraction(tmp_path / "run", random_backbone, repo / "spark_jobs")


def write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says why; spark-submit writes to its stdout what the driver writes to stderr."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    return line


def test_every_bomb_is_a_row_or_a_typed_reject_and_a_limit_of_rejects_refuses_the_run_only(
    step: Extraction, tmp_path: Path
) -> None:
    write(tmp_path / "source" / "bombs", bombs())
    write(tmp_path / "source" / "_SUCCESS", {"good.png": encoded(Image.new("RGB", (9, 9)), "PNG")})
    step.pack(tmp_path / "source")
    images = len(bombs()) + 1
    options = ["--max-pixels", str(LIMIT)]

    refused = step.run(*options, "--max-reject-rate", "0.5")
    assert refused.returncode == 1
    rejected = images - len(DECODE) - 1
    line = error_of(refused)
    assert line.startswith(f"error: {rejected} of {images} images were rejected (")
    assert f"file://{step.root}/rejects names each with its reason" in line
    assert not step.success.exists()
    features, rejects = step.rows("features"), step.rows("rejects")
    assert features.keys() == {f"bombs/{name}" for name in DECODE} | {"_SUCCESS/good.png"}
    assert features.keys() | rejects.keys() == {f"bombs/{name}" for name in bombs()} | {"_SUCCESS/good.png"}
    assert all(row["reason"] in REASONS and row["detail"] for row in rejects.values())

    written = {path: path.stat().st_mtime_ns for path in step.root.glob("*/shard-*")}
    accepted = step.run(*options, "--max-reject-rate", "0.99")
    assert accepted.returncode == 0, accepted.stderr
    marker = json.loads(step.success.read_text())
    assert (marker["images"], marker["rejects"], marker["computed_shards"]) == (images, rejected, 0)
    assert {path: path.stat().st_mtime_ns for path in step.root.glob("*/shard-*")} == written

    assert step.run(*options, "--max-reject-rate", "0").returncode == 1
    assert not step.success.exists()


def test_every_hard_image_is_a_row_or_a_typed_reject(
    step: Extraction, tmp_path: Path, shared_data: Path
) -> None:
    shutil.copytree(shared_data / "hard_images", tmp_path / "source")
    files = {f"{path.parent.name}/{path.name}" for path in (tmp_path / "source").glob("*/*")}
    assert files
    step.pack(tmp_path / "source")
    done = step.run()
    assert done.returncode == 0, done.stderr
    features, rejects = step.rows("features"), step.rows("rejects")
    assert features.keys() | rejects.keys() == files
    assert {row["reason"] for row in rejects.values()} <= REASONS


def test_a_worker_without_memory_rejects_nothing_the_step_says_so_and_more_memory_ends_it_well(
    step: Extraction, tmp_path: Path
) -> None:
    large = encoded(Image.new("RGBA", (14_000, 14_000)), "PNG", compress_level=1)
    small = encoded(Image.new("RGB", (9, 9)), "PNG")
    write(tmp_path / "source" / "a", {"large.png": large, "small.png": small, "text.png": b"no image"})
    step.pack(tmp_path / "source")
    options = ["--max-pixels", "200000000"]

    # Spark sets this as the limit of each worker's address space (RLIMIT_AS), shared among the cores.
    starved = step.run(*options, conf={"spark.executor.pyspark.memory": "3g"})
    assert starved.returncode == 1, starved.stderr
    line = error_of(starved)
    assert "error: out of memory at shard " in line
    assert "image 'a/large.png': no " in line
    assert "lower max_pixels" in line
    assert not step.success.exists()
    assert "a/large.png" not in step.rows("rejects")

    done = step.run(*options)
    assert done.returncode == 0, done.stderr
    assert step.rows("features").keys() == {"a/large.png", "a/small.png"}
    assert {image: row["reason"] for image, row in step.rows("rejects").items()} == {
        "a/text.png": "not-an-image"
    }


def test_a_worker_that_is_killed_each_time_is_told_with_its_shards(step: Extraction, tmp_path: Path) -> None:
    """As the kernel does it to a process that takes too much; here the worker's own decoder does."""
    write(tmp_path / "source" / "a", {"one.png": encoded(Image.new("RGB", (9, 9)), "PNG")})
    step.pack(tmp_path / "source")
    jobs = shutil.copytree(step.jobs, tmp_path / "jobs")
    decoder = jobs / "image_features" / "images.py"
    kill = "    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n    if not content:\n"
    text = decoder.read_text()
    assert text.count("    if not content:\n") == 1
    decoder.write_text(text.replace("    if not content:\n", kill))
    killed = Extraction(step.root, step.model, jobs).run()
    assert killed.returncode == 1
    assert error_of(killed).startswith("error: a worker was lost at shard 0 (")
    assert "out of memory most likely" in error_of(killed)
