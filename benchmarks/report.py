"""Results as JSON, and RESULTS.md, which is made from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import ratio

JSON_NAME = "results.json"
TABLE_NAME = "RESULTS.md"


@dataclass(frozen=True)
class Goal:
    """A lower or upper bound of a row's ratio, or of its figure if it has no ratio."""

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
    ratio_of: str = ""  # meaning of this row's ratio, if it is not that of the column
    repeats: int | None = None  # None: the number of the result


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
    """A row. Its goal is compared with its ratio, or with our figure if it has no ratio."""
    value = ours if ratio is None else ratio
    reached = goal.reached(value) if goal and value is not None else None
    bound = str(goal) if goal else None
    return Row(what, size, ours, other, unit, ratio, bound, reached, note, ratio_of, repeats)


def comparison(
    what: str,
    ours: Sequence[float],
    other: Sequence[float],
    *,
    size: int,
    theirs_over_ours: bool = False,
    unit: str = "s",
    goal: Goal | None = None,
    note: str = "",
    ratio_of: str = "",
) -> Row:
    """A row that compares the repeats of two sides: both medians, and the median of the pairs' ratios.

    The ratio is ours over theirs, as for rates, or with ``theirs_over_ours`` the inverse, as for times.
    """
    return row(
        what,
        size=size,
        ours=median(ours),
        other=median(other),
        unit=unit,
        ratio=ratio(other, ours) if theirs_over_ours else ratio(ours, other),
        goal=goal,
        note=note,
        ratio_of=ratio_of,
        repeats=len(ours),
    )


@dataclass(frozen=True)
class Result:
    """The table of one benchmark, and all its single measurements."""

    name: str
    title: str
    ratio_of: str  # meaning of the ratio column, such as "their time / ours"
    repeats: int | None  # of the rows without a number of their own
    rows: list[Row]
    notes: list[str] = field(default_factory=list)
    runs: dict[str, Any] = field(default_factory=dict)  # single measurements, by side
    seconds: float = 0.0  # duration of the benchmark
    date: str = ""
    settings: dict[str, Any] = field(default_factory=dict)  # mode, images, weights of this benchmark


def load(folder: Path) -> dict[str, Any]:
    """The document of the earlier runs, or an empty one."""
    path = folder / JSON_NAME
    if path.exists():
        document: dict[str, Any] = json.loads(path.read_text())
        return document
    return {"benchmarks": {}}


def save(folder: Path, machine: Mapping[str, Any], result: Result) -> None:
    """Add one result to the folder's JSON, which keeps those of other benchmarks, and rewrite the table."""
    folder.mkdir(parents=True, exist_ok=True)
    document = load(folder)
    document["benchmarks"][result.name] = {**asdict(result), "machine": dict(machine)}
    (folder / JSON_NAME).write_text(json.dumps(document, indent=1) + "\n")
    (folder / TABLE_NAME).write_text(markdown(document))


def markdown(document: Mapping[str, Any]) -> str:
    """RESULTS.md of a document that save() wrote."""
    results = list(document["benchmarks"].values())
    lines = [
        "# Results",
        "",
        f"Written by `python -m benchmarks` from [{JSON_NAME}]({JSON_NAME}), which has every single",
        "measurement. Both sides of a ratio ran in turn on one machine. A row with several repeats shows",
        "medians, and the median of the pairs' ratios.",
    ]
    if goals := [_goal_line(result, item) for result in results for item in result["rows"] if item["goal"]]:
        lines += ["", "## Goals", "", "| benchmark | what | images | measured | goal | reached |"]
        lines += ["|---|---|---:|---|---|---|", *goals]
    previous: dict[str, Any] | None = None
    for result in results:
        machine = result.get("machine", {})
        identity = {name: value for name, value in machine.items() if name != "load_at_start"}
        if machine and identity != previous:
            lines += ["", *_machine_lines(machine)]
            previous = identity
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
    """A row's ratio, with enough digits to compare it with its goal."""
    if item["ratio"] is None:
        return ""
    if item["ratio_of"]:
        return number(item["ratio"])
    # Some goals are close to 1.
    return f"{item['ratio']:.3f}" if item["ratio"] < 2 else f"{item['ratio']:.2f}"


def number(value: float | None) -> str:
    """A figure with about three digits."""
    if value is None:
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"
