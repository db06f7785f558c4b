"""Imports run downwards: each room imports the rooms that docs/architecture.md names for it, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGE = (REPO / "docs" / "architecture.md").read_text()
FOLDERS = {name: REPO / name for name in ("dags/fruit_pipeline", "spark_jobs/image_features", "local_emr")}


def imports(file: Path, *, inside_functions: bool = True) -> Iterator[str]:
    """Dotted names of all that a module imports; of `from a import b` it is both a and a.b."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows(folder: Path) -> dict[str, set[str]]:
    """For each room (a folder or module directly in the package), the rooms that it imports."""
    rooms = {path.stem for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"}
    drawn: dict[str, set[str]] = {}
    for file in folder.rglob("*.py"):
        room = file.relative_to(folder).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        names = (name.split(".") for name in imports(file))
        others = {parts[1] for parts in names if parts[0] == folder.name and len(parts) > 1}
        drawn.setdefault(room, set()).update((others & rooms) - {room})
    return drawn


def table(heading: str) -> list[list[str]]:
    """The body rows of the first table below a heading of the page."""
    section = PAGE.split(f"\n### `{heading}`\n")[1].split("\n#")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def quoted(text: str) -> list[str]:
    return re.findall(r"`([a-z_]+)`", text)


@pytest.mark.parametrize("package", ["dags/fruit_pipeline", "local_emr"])
def test_the_page_shows_every_room_and_every_arrow(package: str) -> None:
    shown = {room: set(quoted(row[2])) for row in table(package) for room in quoted(row[0])}
    assert shown == arrows(FOLDERS[package])


@pytest.mark.parametrize("package", ["dags/fruit_pipeline", "local_emr"])
def test_the_diagram_has_imports_only_and_leads_to_each(package: str) -> None:
    section = PAGE.split(f"\n### `{package}`\n")[1].split("\n#")[0]
    lines = re.findall(r"^  ([a-z_ &]+) --> ([a-z_ &]+)$", section, re.MULTILINE)
    drawn = {(a, b) for left, right in lines for a in left.split(" & ") for b in right.split(" & ")}
    imported = {(room, other) for room, others in arrows(FOLDERS[package]).items() for other in others}
    assert drawn
    assert drawn <= imported
    reached = set(drawn)
    while further := {(a, d) for a, b in reached for c, d in drawn if b == c} - reached:
        reached |= further
    assert imported <= reached


@pytest.mark.parametrize("package", ["dags/fruit_pipeline", "local_emr"])
def test_a_room_imports_only_rooms_below_it(package: str) -> None:
    order = [quoted(row[0]) for row in table(package)]
    height = {room: -place for place, rooms in enumerate(order) for room in rooms}
    upwards = [
        f"{room} -> {other}"
        for room, others in arrows(FOLDERS[package]).items()
        for other in others
        if height[other] >= height[room]
    ]
    assert not upwards


def test_the_job_code_has_layers_and_no_circle() -> None:
    layers = [
        [name for name in quoted(row[1]) if f"`{name}.py`" not in row[1]]
        for row in table("spark_jobs/image_features")
    ]
    height = {module: -place for place, modules in enumerate(layers) for module in modules}
    drawn = arrows(FOLDERS["spark_jobs/image_features"])
    assert set(height) == set(drawn)
    assert not [f"{a} -> {b}" for a, others in drawn.items() for b in others if height[b] > height[a]]
    while free := [module for module, others in drawn.items() if not others & drawn.keys()]:
        for module in free:
            del drawn[module]
    assert not drawn, "these modules import each other in a circle"


def test_only_settings_and_pages_stand_beside_the_rooms() -> None:
    modules = {path.name for path in FOLDERS["dags/fruit_pipeline"].glob("*.py")}
    assert modules == {"__init__.py", "__main__.py", "settings.py"}


@pytest.mark.parametrize(
    ("package", "never"),
    [
        (
            "spark_jobs/image_features",
            {"airflow", "boto3", "fruit_pipeline", "keras", "local_emr", "tensorflow"},
        ),
        ("local_emr", {"airflow", "fruit_pipeline", "image_features"}),
        ("dags/fruit_pipeline", {"local_emr", "pyspark"}),
    ],
)
def test_a_package_knows_nothing_of_what_it_must_not(package: str, never: set[str]) -> None:
    for file in FOLDERS[package].rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(file)} & never, file


def test_only_the_dag_room_imports_airflow_when_it_is_imported() -> None:
    for file in FOLDERS["dags/fruit_pipeline"].rglob("*.py"):
        if file.relative_to(FOLDERS["dags/fruit_pipeline"]).parts[0] != "dag":
            assert "airflow" not in {name.split(".")[0] for name in imports(file, inside_functions=False)}, (
                file
            )
