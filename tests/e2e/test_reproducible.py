"""The same inputs on 1, 2 and 4 workers, and in other shards: what is the same, how near the rest is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks import spark
from fruit_pipeline.checks.output import CheckReport, check_run
from fruit_pipeline.cluster import job_code
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.drawn_images import draw_folder
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.contract import RunLayout
from image_features.storage import Storage
from support.documents import values_of

COMPONENTS = 20
CLOSE = 1e-5  # of the largest embedding, or of 1


class Way(NamedTuple):
    workers: int
    cores: int  # that the sample is cut for


WAYS = (Way(1, 2), Way(2, 2), Way(4, 2), Way(2, 7))
SAME_CUT, OTHER_CUT = WAYS[:3], WAYS[3]


class Made(NamedTuple):
    root: Path
    checks: CheckReport

    def objects(self, stage: str) -> dict[str, str]:
        """SHA-256 of each object of a stage, by name; markers and summaries hold seconds and are left out."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in (self.root / stage).iterdir()
            if path.name not in ("_SUCCESS", "summary.json")
        }

    def document(self, name: str) -> dict[str, Any]:
        return values_of(self.root / name)

    def rows(self, stage: str, column: str) -> dict[str, np.ndarray]:
        tables = (pq.read_table(path) for path in sorted((self.root / stage).glob("shard-*")))
        rows = (row for table in tables for row in table.to_pylist())
        return {row["image"]: np.array(row[column], np.float32) for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, repo: Path, random_backbone: Path) -> Mapping[Way, Made]:
    """A run in each of the ways, by the entry points under Spark; two files do not decode."""
    folder = tmp_path_factory.mktemp("reproducible")
    source, code = folder / "source", folder / "code"
    draw_folder(source, per_label=8)
    (source / "Apricot" / "empty.jpg").touch()
    (source / "Plum" / "text.jpg").write_text("no image")
    job_code.upload(repo, Storage(code, create=True))
    package = ["--py-files", str(code / job_code.JOB_PACKAGE)]
    found = {}
    for way in WAYS:
        root = folder / f"{way.workers}-{way.cores}"
        request = SampleRequest(str(source), cores=way.cores)
        write_sample(request, Source(source), Storage(root / "sample", create=True))
        steps = {
            job_code.EXTRACT_SCRIPT: ["--sample", f"{root}/sample", "--output", f"{root}/features"],
            job_code.PCA_SCRIPT: [
                *("--features", f"{root}/features", "--output", f"{root}/pca"),
                *("--components", str(COMPONENTS)),
            ],
        }
        for script, arguments in steps.items():
            log, scratch = root / f"{script}.log", folder / "spark"
            arguments = [*arguments, "--model", str(random_backbone)]
            spark.submit(code / script, arguments, way.workers, log, scratch, package)
        found[way] = Made(root, check_run(RunLayout(f"file://{root}")))
    return found


@pytest.mark.parametrize("way", SAME_CUT[1:], ids=str)
def test_the_same_shards_give_the_same_bytes_on_any_number_of_workers(
    made: Mapping[Way, Made], way: Way
) -> None:
    one, other = made[WAYS[0]], made[way]
    for stage in ("sample", "features", "rejects", "pca"):
        objects = one.objects(stage)
        assert objects
        assert other.objects(stage) == objects
    assert {"model.npz", "embed.tflite"} < one.objects("pca").keys()
    assert other.checks == one.checks
    for name in ("features/_SUCCESS", "pca/_SUCCESS", "pca/summary.json"):
        ours, theirs = one.document(name), other.document(name)
        for document in (ours, theirs):
            assert document.pop("seconds")
        assert theirs == ours


def test_other_shards_hold_the_same_features_bit_by_bit(made: Mapping[Way, Made]) -> None:
    """An image's place in a batch, and the batch's other images, change nothing."""
    one, other = made[WAYS[0]], made[OTHER_CUT]
    assert one.checks.shards != other.checks.shards
    ours, theirs = (run.rows("features", "features") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert len(ours) == 96
    assert all(np.array_equal(ours[image], theirs[image]) for image in ours)
    assert other.checks.rows_digest == one.checks.rows_digest
    assert other.checks.images_digest == one.checks.images_digest


def test_other_shards_give_the_same_embeddings_but_for_rounding(made: Mapping[Way, Made]) -> None:
    """Sums of other groups differ in float64's last bits: no component changes its sign for that."""
    ours, theirs = (made[way].rows("pca", "embedding") for way in (WAYS[0], OTHER_CUT))
    assert ours.keys() == theirs.keys()
    largest = max(1.0, *(float(np.abs(row).max()) for row in ours.values()))
    worst = max(float(np.abs(ours[image] - theirs[image]).max()) for image in ours)
    assert worst <= CLOSE * largest
    kept = [made[way].checks.variance_kept for way in (WAYS[0], OTHER_CUT)]
    assert kept[0] == pytest.approx(kept[1], rel=1e-9)


def test_the_summary_names_the_spark_and_java_that_ran(made: Mapping[Way, Made]) -> None:
    versions = made[WAYS[0]].document("pca/summary.json")["versions"]
    assert versions["spark"].startswith("3.5.")
    assert versions["java"].partition(".")[0] in ("1", "8", "11", "17")
