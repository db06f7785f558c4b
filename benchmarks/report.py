"""Results as JSON, and RESULTS.md made from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

JSON_NAME = "results.json"
TABLE_NAME = "RESULTS.md"


@dataclass(frozen=True)
class Goal:
    """A bound for a row's ratio: at least or at most."""

    bound: float
    at_least: bool = True

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


@dataclass(frozen=True)
class Row:
    """One line of a table: a figure of ours, one of another, and their ratio (medians)."""

    what: str
    size: int | None = None
    ours: float | None = None
    other: float | None = None
    unit: str = "s"
    ratio: float | None = None
    goal: str | None = None
    reached: bool | None = None
    note: str = ""


def row(
    what: str,
    *,
    size: int | None = None,
    ours: float | None = None,
    other: float | None = None,
    unit: str = "s",
    ratio: float | None = None,
    goal: Goal | None = None,
    note: str = "",
) -> Row:
    """A row; whether its goal is reached follows from the ratio."""
    reached = goal.reached(ratio) if goal and ratio is not None else None
    return Row(what, size, ours, other, unit, ratio, str(goal) if goal else None, reached, note)


@dataclass(frozen=True)
class Result:
    """One benchmark's table, and every single measurement behind it."""

    name: str
    title: str
    ratio_of: str  # what the ratio column says, "their time / ours"
    repeats: int
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    runs: dict[str, Any] = field(default_factory=dict)  # single measurements, by side
    seconds: float = 0.0  # that the benchmark took
    date: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # mode, images, weights of this benchmark


def load(folder: Path) -> dict[str, Any]:
    """The document of an earlier run, or an empty one."""
    path = folder / JSON_NAME
    if path.exists():
        document: dict[str, Any] = json.loads(path.read_text())
        return document
    return {"benchmarks": {}}


def save(folder: Path, machine: Mapping[str, Any], result: Result) -> None:
    """Put one result into the folder's JSON, beside those of other benchmarks, and rewrite the table."""
    folder.mkdir(parents=True, exist_ok=True)
    document = load(folder)
    document["benchmarks"][result.name] = {**asdict(result), "machine": dict(machine)}
    (folder / JSON_NAME).write_text(json.dumps(document, indent=1) + "\n")
    (folder / TABLE_NAME).write_text(markdown(document))


def markdown(document: Mapping[str, Any]) -> str:
    """RESULTS.md of a document as save() wrote it."""
    lines = [
        "# Results",
        "",
        f"Made by `python -m benchmarks` from [{JSON_NAME}]({JSON_NAME}), which holds every single",
        "measurement. Each ratio was taken side by side in one run and is the median over the repeats.",
    ]
    shown: dict[str, Any] | None = None
    for result in document["benchmarks"].values():
        machine = result.get("machine", {})
        identity = {name: value for name, value in machine.items() if name != "load_at_start"}
        if machine and identity != shown:
            lines += ["", *_machine_lines(machine)]
            shown = identity
        lines += ["", *_table_lines(result)]
    return "\n".join(lines) + "\n"


def _machine_lines(machine: Mapping[str, Any]) -> list[str]:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return [
        f"Machine: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{machine['system']}; Python {machine['python']}; {machine['java']}; {packages}.",
    ]


def _table_lines(result: Mapping[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    repeats = "1 repeat" if result["repeats"] == 1 else f"{result['repeats']} repeats"
    lines = [
        f"## {result['name']}: {result['title']}",
        "",
        f"{result['date']}, {repeats}, {settings}; took {result['seconds']:.0f} s.",
        "",
        f"| what | size | ours | other | unit | {result['ratio_of']} | goal | reached |",
        "|---|---:|---:|---:|---|---:|---|---|",
    ]
    for item in result["rows"]:
        what = f"{item['what']} ({item['note']})" if item["note"] else item["what"]
        reached = {True: "yes", False: "**no**", None: ""}[item["reached"]]
        cells = [
            what.replace("|", "\\|"),
            "" if item["size"] is None else f"{item['size']:,}",
            *(number(item[name]) for name in ("ours", "other")),
            item["unit"],
            "" if item["ratio"] is None else f"{item['ratio']:.2f}",
            item["goal"] or "",
            reached,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if result["notes"]:
        lines += ["", *(f"- {note}" for note in result["notes"])]
    return lines


def number(value: float | None) -> str:
    """A figure with three digits or so."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
