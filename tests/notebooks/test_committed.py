"""What the committed notebooks show is a whole execution, fit to be read by anybody."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NAMES = ("01_local_step_by_step", "02_explore_results", "03_emr_jupyterhub")
HOURS_A_MONTH = 730


@pytest.fixture(params=NAMES)
def path(request: pytest.FixtureRequest, repo: Path) -> Path:
    return repo / "notebooks" / f"{request.param}.ipynb"


@pytest.fixture
def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def _code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_notebooks_are_these(repo: Path) -> None:
    assert sorted(path.stem for path in (repo / "notebooks").glob("*.ipynb")) == sorted(NAMES)


def test_every_cell_was_executed_in_order(notebook: Any) -> None:
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in _code(notebook)] == list(range(1, len(_code(notebook)) + 1))


def test_no_output_is_an_error_or_a_program_talking_of_itself(notebook: Any) -> None:
    outputs = [out for cell in _code(notebook) for out in cell.outputs]
    assert len(outputs) > 5
    assert [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"] == []
    assert not re.search("Traceback|Warning|WARN", json.dumps(outputs))


def test_no_output_tells_where_it_was_made(notebook: Any) -> None:
    said = "\n".join(_texts(notebook))
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|Users|var|private|mnt|opt)/", said)
    assert not re.search(r"file://|s3://|\b\d+\.\d+\.\d+\.\d+\b", said)


def _texts(notebook: Any) -> list[str]:
    """All text of all outputs; pictures are no text."""
    found = []
    for cell in _code(notebook):
        for out in cell.outputs:
            found.append(out.get("text", ""))
            found += [text for kind, text in out.get("data", {}).items() if kind.startswith("text/")]
    return found


def test_a_notebook_is_small_enough_to_be_shown(path: Path) -> None:
    assert path.stat().st_size < 500_000


def test_pictures_name_their_author_and_licence(notebook: Any) -> None:
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "Mihai Oltean" in text
    assert "CC BY-SA 4.0" in text


def test_the_price_of_an_hour_is_that_of_the_shape(repo: Path) -> None:
    notebook = nbformat.read(repo / "notebooks" / "03_emr_jupyterhub.ipynb", as_version=4)
    text = " ".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    said = re.search(r"about (\d+\.\d+) USD an hour in (\S+)", re.sub(r"\s+", " ", text))
    assert said
    shape = json.loads((repo / "emr_configs" / "notebook.json").read_text())
    known = json.loads((repo / "emr_configs" / "prices" / f"{said[2]}.json").read_text())
    hour = 0.0
    for group in shape["instance_groups"]:
        node = known["instances"][group["InstanceType"]]
        volume = shape["ebs_gb"] * known["gp3_gb_month"]["usd"] / HOURS_A_MONTH
        hour += group["InstanceCount"] * (node["ec2"]["usd"] + node["emr"]["usd"] + volume)
    assert float(said[1]) == pytest.approx(hour, abs=0.005)


def test_the_notebook_of_emr_imports_only_what_its_two_pythons_have(repo: Path) -> None:
    notebook = nbformat.read(repo / "notebooks" / "03_emr_jupyterhub.ipynb", as_version=4)
    assert notebook.metadata.kernelspec.name == "pysparkkernel"
    imported: dict[str, set[str]] = {"session": set(), "local": set()}
    for cell in _code(notebook):
        where = "local" if cell.source.startswith("%%local") else "session"
        imported[where] |= set(re.findall(r"^(?:from|import) (\w+)", cell.source, re.MULTILINE))
    assert imported["session"] <= {"os", "pyspark", "image_features", "numpy"}
    assert imported["local"] <= {"matplotlib", "pandas", "numpy"}
