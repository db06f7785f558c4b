"""RESULTS.md is made from the JSON, and shows which goals were reached."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.report import Goal, Result, load, markdown, row, save

MACHINE = {
    "cpu": "Some CPU",
    "cores": 2,
    "memory_gib": 8.0,
    "system": "Linux",
    "load_at_start": [0.1, 0.1, 0.1],
    "python": "3.11.7",
    "java": "openjdk 17",
    "packages": {"numpy": "2.4.6"},
}


def result(name: str, ratio: float) -> Result:
    rows = [
        row("a run", size=2000, ours=10, other=10 * ratio, ratio=ratio, goal=Goal(3)),
        row("memory", ours=1.5, unit="MiB", ratio=1.3, goal=Goal(1.25, at_least=False), note="a | note"),
        row("seconds alone", ours=59.0, goal=Goal(60, at_least=False), repeats=1),
        row("a share", ours=0.8, ratio=0.0004, ratio_of="difference", goal=Goal(0.001, at_least=False)),
        row("not installed"),
    ]
    settings = {"mode": "quick", "cores": 2}
    return Result(name, "a title", "theirs / ours", 3, rows, ["A note."], {}, 12.3, "2026-01-02", settings)


def test_goals_have_a_direction() -> None:
    assert Goal(3).reached(3)
    assert not Goal(3).reached(2.9)
    assert Goal(1.1, at_least=False).reached(1.0)
    assert not Goal(1.1, at_least=False).reached(1.2)


def test_the_table_shows_the_goals_reached_and_the_machine(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, result("first", 4.0))
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| a run | 2,000 | 3 | 10.0 | 40.0 | s | 4.00 | at least 3 | yes |" in text
    assert "| memory (a \\| note) |  | 3 | 1.5 |  | MiB | 1.300 | at most 1.25 | **no** |" in text
    assert "| seconds alone |  | 1 | 59.0 |  | s |  | at most 60 | yes |" in text
    assert "| 0.0004 (difference) | at most 0.001 | yes |" in text
    assert "| not installed |  |  |  |" in text
    assert "2026-01-02, mode quick, cores 2; took 12 s." in text
    assert "Some CPU, 2 cores, 8.0 GiB" in text
    assert "numpy 2.4.6" in text
    assert "- A note." in text


def test_the_goals_come_first(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, result("first", 4.0))
    text = (tmp_path / "RESULTS.md").read_text()
    headline = text[: text.index("## Machine")]
    assert "| first | a run | 2,000 | 4.00 (theirs / ours) | at least 3 | yes |" in headline
    assert "| first | memory | 1.300 (theirs / ours) | at most 1.25 | **no** |" in headline.replace("  |", "")
    assert "| first | seconds alone |  | 59.0 s | at most 60 | yes |" in headline
    assert "not installed" not in headline


def test_the_table_is_made_from_the_json_alone(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, result("first", 4.0))
    document = json.loads((tmp_path / "results.json").read_text())
    assert markdown(document) == (tmp_path / "RESULTS.md").read_text()


def test_the_result_of_a_benchmark_that_was_not_run_again_is_kept(tmp_path: Path) -> None:
    save(tmp_path, MACHINE, result("first", 4.0))
    save(tmp_path, MACHINE, result("second", 2.0))
    save(tmp_path, MACHINE, result("first", 5.0))
    document = load(tmp_path)
    assert list(document["benchmarks"]) == ["first", "second"]
    assert document["benchmarks"]["first"]["rows"][0]["ratio"] == 5.0
    # One machine is described once.
    assert (tmp_path / "RESULTS.md").read_text().count("Some CPU") == 1
