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
    """A bound for a row's ratio, or for its figure when it has none: at least or at most."""

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
    ratio_of: str = ""  # what this row's ratio says, when it is not what the table's column says
    repeats: int | None = None  # None: as many as the result's


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
    ratio_of: str = "",
    repeats: int | None = None,
) -> Row:
    """A row; whether its goal is reached follows from the ratio, or from our figure without one."""
    judged = ours if ratio is None else ratio
    reached = goal.reached(judged) if goal and judged is not None else None
    bound = str(goal) if goal else None
    return Row(what, size, ours, other, unit, ratio, bound, reached, note, ratio_of, repeats)


@dataclass(frozen=True)
class Result:
    """One benchmark's table, and every single measurement behind it."""

    name: str
    title: str
    ratio_of: str  # what the ratio column says, "their time / ours"
    repeats: int | None  # of the rows that do not say
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
    results = list(document["benchmarks"].values())
    lines = [
        "# Results",
        "",
        f"Made by `python -m benchmarks` from [{JSON_NAME}]({JSON_NAME}), which holds every single",
        "measurement. Both sides of a ratio ran in turn on one machine; a row with several repeats shows",
        "medians, and the median of the pairs' ratios.",
    ]
    if goals := [_goal_line(result, item) for result in results for item in result["rows"] if item["goal"]]:
        lines += ["", "## Goals", "", "| benchmark | what | images | measured | goal | reached |"]
        lines += ["|---|---|---:|---|---|---|", *goals]
    shown: dict[str, Any] | None = None
    for result in results:
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
        "## Machine",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{machine['system']}; Python {machine['python']}; {machine['java']}; {packages}.",
    ]


def _goal_line(result: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    if item["ratio"] is None:
        measured = f"{number(item['ours'])} {item['unit']}".strip()
    else:
        measured = f"{ratio_text(item)} ({item['ratio_of'] or result['ratio_of']})"
    return _line(
        [result["name"], item["what"], _size(item), measured, item["goal"], _REACHED[item["reached"]]]
    )


def _table_lines(result: Mapping[str, Any]) -> list[str]:
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    lines = [
        f"## {result['name']}: {result['title']}",
        "",
        f"{result['date']}, {settings}; took {result['seconds']:.0f} s.",
        "",
        f"| what | images | repeats | ours | other | unit | {result['ratio_of']} | goal | reached |",
        "|---|---:|---:|---:|---:|---|---:|---|---|",
    ]
    for item in result["rows"]:
        repeats = item["repeats"] or result["repeats"] or ""
        lines.append(
            _line(
                [
                    f"{item['what']} ({item['note']})" if item["note"] else item["what"],
                    _size(item),
                    # A row without figures was not run.
                    "" if item["ours"] is None and item["other"] is None else str(repeats),
                    *(number(item[name]) for name in ("ours", "other")),
                    item["unit"],
                    f"{ratio_text(item)} ({item['ratio_of']})" if item["ratio_of"] else ratio_text(item),
                    item["goal"] or "",
                    _REACHED[item["reached"]],
                ]
            )
        )
    if result["notes"]:
        lines += ["", *(f"- {note}" for note in result["notes"])]
    return lines


_REACHED = {True: "yes", False: "**no**", None: ""}


def _line(cells: list[str]) -> str:
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _size(item: Mapping[str, Any]) -> str:
    return "" if item["size"] is None else f"{item['size']:,}"


def ratio_text(item: Mapping[str, Any]) -> str:
    """A row's ratio, with the digits that its goal asks for."""
    if item["ratio"] is None:
        return ""
    if item["ratio_of"]:
        return number(item["ratio"])
    # Goals lie close to 1 where they ask for little loss.
    return f"{item['ratio']:.3f}" if item["ratio"] < 2 else f"{item['ratio']:.2f}"


def number(value: float | None) -> str:
    """A figure with three digits or so."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
