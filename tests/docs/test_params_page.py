"""docs/params.md lists every Param with what its declaration says: description, default, values."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

from fruit_pipeline.run.params import ParamSpec
from fruit_pipeline.run.request import PARAMS
from support import markdown

PAGE = Path(__file__).resolve().parents[2] / "docs" / "params.md"


def default_of(spec: ParamSpec) -> str:
    if spec.default in (None, [], ""):
        return "empty"
    return f"`{spec.default}`" if isinstance(spec.default, str) else f"`{json.dumps(spec.default)}`"


def values_of(schema: dict[str, Any]) -> str:
    """The allowed values in words; "" where the type says all."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "errorMessage" in schema:
        return str(schema["errorMessage"]).removeprefix("expected ")
    bounds = {"minimum": "{:,} or more", "exclusiveMinimum": "above {:,}", "maximum": "at most {:,}"}
    bounds["exclusiveMaximum"] = "below {:,}"
    return ", ".join(text.format(schema[name]) for name, text in bounds.items() if name in schema)


def expected_tables() -> list[str]:
    tables = []
    for section, params in groupby(PARAMS.items(), lambda item: item[1].section):
        rows = [
            f"| `{name}` | {spec.title} | {spec.description.replace('<', '&lt;')} | {default_of(spec)} "
            f"| {values_of(dict(spec.schema))} |"
            for name, spec in params
        ]
        head = ["| Param | in the form | meaning | default | values |", "|---|---|---|---|---|"]
        tables.append("\n".join([f"## {section}", "", *head, *rows]))
    return tables


def test_the_page_has_the_table_of_every_section() -> None:
    text = PAGE.read_text()
    for table in expected_tables():
        assert f"\n{table}\n" in text, f"docs/params.md lacks, or differs from:\n{table}"


def test_the_page_has_no_other_param() -> None:
    names = [row[0].strip("`") for table in markdown.tables(PAGE.read_text()) for row in table]
    assert names == list(PARAMS)
