"""The README's walk by hand does what it says, and docs/output.md reads what comes out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fruit_pipeline.checks.output import check_run
from image_features.contract import RunLayout
from support import markdown

pytestmark = pytest.mark.timeout(3600)  # the first test makes the walk

REPO = Path(__file__).resolve().parents[2]
SNIPPETS = markdown.blocks((REPO / "docs" / "output.md").read_text(), "python")


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "VENV": str(REPO / ".venv"),
        "PYSPARK_PYTHON": str(REPO / ".venv" / "bin" / "python"),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the walk has been made in: images/, models/, run/."""
    folder = tmp_path_factory.mktemp("walk")
    section = (REPO / "README.md").read_text().partition("## By hand, without Airflow")[2]
    script = markdown.blocks(section, "bash")[0]
    script = script.replace("/tmp/walk", str(folder)).replace(".venv/bin/activate", "$VENV/bin/activate")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=REPO,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_the_walk_by_hand_ends_with_checked_embeddings(walk: Path):
    report = check_run(RunLayout(f"file://{walk}/run"))
    assert (report.images, report.features, report.components) == (240, 240, 50)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_the_output_can_be_read_as_documented(number: int, walk: Path, tmp_path: Path):
    photo = next((walk / "images").rglob("*.jpg"))
    code = SNIPPETS[number].replace("demo-output/<run>", f"{walk}/run").replace("photo.jpg", str(photo))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_page_has_snippets_for_each_library():
    text = "\n".join(SNIPPETS)
    for library in ("numpy", "pyarrow", "pandas", "pyspark", "ai_edge_litert"):
        assert f"import {library}" in text or f"from {library}" in text
