"""The notebooks run from top to bottom: the first makes a real run, the others read it.

03 is rehearsed: a local Spark and a folder stand for EMR's session and S3. What no test here can show
is Livy, JupyterHub's container and Spark's own way to s3://; that has to be seen on EMR.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.output import check_run
from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.demo.local_account import set_up_account
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.contract import RunLayout
from image_features.storage import Storage
from support.stages import demo_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(2400)]

LABELS = 12
PER_LABEL = 6


@dataclass(frozen=True)
class Walk:
    """The run that the first notebook made, and what the kernels are given."""

    notebook: NotebookNode
    environment: dict[str, str]

    @property
    def run(self) -> str:
        return self.environment["FRUITS_RUN"]


def said(notebook: NotebookNode) -> str:
    """All that a notebook printed, and its tables, as text."""
    found = []
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            found += [out.get("text", ""), out.get("data", {}).get("text/plain", "")]
    return "\n".join(found)


def pictures(notebook: NotebookNode) -> int:
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return sum("image/jpeg" in out.get("data", {}) or "image/png" in out.get("data", {}) for out in outputs)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory, execute: ModuleType) -> Walk:
    work = tmp_path_factory.mktemp("notebooks")
    draw_folder(work / "drawn", per_label=PER_LABEL + 2)
    environment = execute.environment(
        work,
        FRUITS_WORK=str(work / "walk"),
        FRUITS_IMAGES=str(execute.with_broken_files(work / "drawn", work / "images")),
        FRUITS_WEIGHTS="random:0",
        FRUITS_PER_LABEL=str(PER_LABEL),
        FRUITS_RUN=str(work / "walk" / "run"),
    )
    return Walk(execute.execute(execute.STEP_BY_STEP, environment), environment)


def test_the_first_makes_a_whole_run(walk: Walk) -> None:
    report = check_run(RunLayout(walk.run))
    assert (report.features, report.rejects) == (LABELS * PER_LABEL, 3)
    text = said(walk.notebook)
    assert f"{report.images} images = {report.features} with features + 3 rejected" in text
    assert "computed 1 of" in text  # after one shard was deleted
    assert pictures(walk.notebook) == 4


def test_the_second_reads_a_folder(walk: Walk, execute: ModuleType) -> None:
    notebook = execute.execute(execute.EXPLORE, walk.environment)
    text = said(notebook)
    for reason in ("not-an-image", "truncated", "empty"):
        assert reason in text
    assert "nearest labels:" in text
    assert pictures(notebook) == 5


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with demo_run.local_aws(demo_in(tmp_path_factory.mktemp("aws"))) as local:
        set_up_account(local, demo_run.BUCKET)
        yield local


def test_the_second_reads_s3(walk: Walk, aws: Aws, execute: ModuleType) -> None:
    uri = f"s3://{demo_run.BUCKET}/runs/notebooks"
    source, target = Storage(walk.run), aws.storage(uri)
    for obj in source.list():
        target.put(obj.key, source.get(obj.key))
    notebook = execute.execute(
        execute.EXPLORE,
        walk.environment
        | {
            "FRUITS_RUN": uri,
            "AWS_ENDPOINT_URL": aws.endpoint_url,
            "AWS_REGION": aws.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        },
    )
    assert "nearest labels:" in said(notebook)


def test_the_third_is_rehearsed(walk: Walk, execute: ModuleType) -> None:
    notebook = execute.execute(execute.ON_EMR, walk.environment)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = said(notebook)
    images = LABELS * PER_LABEL
    assert f"{images + 3} images = {images} with features + 3 rejected" in text
    assert f"|{LABELS + 1:6}|" in text  # labels, in Spark's table
    assert pictures(notebook) == 1
    assert f"{images:.1f}" in text or f"{float(images)}" in text  # the count of points, in pandas


def test_a_cell_of_the_session_has_no_pandas(walk: Walk, execute: ModuleType, tmp_path: Path) -> None:
    """As on EMR: the rehearsal finds what would only fail there."""
    spoilt: Any = execute.nbformat.read(execute.ON_EMR, as_version=4)
    spoilt.cells = [execute.nbformat.v4.new_code_cell("points = spark.range(3).toPandas()")]
    execute.write(tmp_path / "spoilt.ipynb", spoilt)
    with pytest.raises(CellExecutionError, match="Pandas"):
        execute.execute(tmp_path / "spoilt.ipynb", walk.environment)


def test_images_or_weights_that_are_not_there_are_told_in_a_line(
    execute: ModuleType, drawn_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute.main(["--images", str(tmp_path / "no"), "--weights", "imagenet"]) == 2
    assert execute.main(["--images", str(drawn_folder), "--weights", "no.h5"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("is no folder; give one with a sub-folder a label")
    assert second.endswith("no.h5 does not exist; or give imagenet, or random:<seed>")
