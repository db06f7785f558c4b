"""The table of faults: on a terminal, and in a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- faults: written by make faults -->", "<!-- faults: end -->"

BROKEN = "PROMISE BROKEN"

_HEAD = ("fault", "outcome", "seconds", "images recomputed", "message")
_IDS = re.compile(r"\b([sji]-)\w{8,}")  # of steps, clusters, instances
_LONGEST = 180
_KINDS = ("processes", "s3", "emr", "data", "load")


def text(rows: Sequence[dict[str, Any]]) -> str:
    """A line a fault, in columns."""
    lines = [_HEAD, *(_cells(row) for row in _sorted(rows))]
    widths = [min(60, max(len(line[at]) for line in lines)) for at in range(len(_HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    broken = sum(row["outcome"] == BROKEN for row in rows)
    return "\n".join([*shown, f"{len(rows)} faults, {broken or 'no'} promise{'s' * (broken > 1)} broken"])


def write(page: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Put the table into a page, between its two marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    parts = []
    for kind in _KINDS:
        of_kind = [row for row in _sorted(rows) if row["kind"] == kind]
        if of_kind:
            head = ["| " + " | ".join(_HEAD) + " |", "|" + " --- |" * len(_HEAD)]
            body = [
                "| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in of_kind
            ]
            parts.append(
                "\n".join([f"### {kind.upper() if len(kind) < 4 else kind.capitalize()}", "", *head, *body])
            )
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


def _sorted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (_KINDS.index(row["kind"]), row["fault"]))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["fault"],
        row["outcome"],
        str(row.get("seconds", "")),
        str(row.get("recomputed", "")),
        _short(row.get("cause", "")),
    )


def _short(cause: str) -> str:
    """The message without what is another in each run, and no longer than tells it."""
    text = _IDS.sub(r"\1…", cause)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rsplit(' ', 1)[0]} ..."
