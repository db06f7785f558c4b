"""What the demo shows on the console: tasks as they end, the progress of the steps, and the result."""

from __future__ import annotations

import itertools
import re
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.model.quantise import Quality
from fruit_pipeline.run import progress
from fruit_pipeline.sample import left_out
from image_features.contract import REPORT, SUMMARY, RunLayout, RunSummary
from image_features.errors import JobError

_MARKS = {"success": "[green]ok[/]     ", "failed": "[red]failed[/] ", "upstream_failed": "[dim]not run[/]"}
_ACTIVE_STATES = ("running", "deferred", "queued", "scheduled", "up_for_retry")
_STEPS = {"wait_for_extraction": ("extraction", "extracting"), "wait_for_pca": ("pca", "reducing")}
_POLL_SECONDS = 2  # a poll takes the local AWS some CPU time, which the step could use
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Failure)\b: (.+)")
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\dT")


class Watch:
    """Follows one DAG run of an Airflow whose metadata database is a SQLite file."""

    def __init__(self, console: Console, database: Path, dag_id: str, layout: RunLayout, aws: Aws) -> None:
        self._console = console
        self._database = database
        self._dag_id = dag_id
        self._layout = layout
        self._aws = aws
        self._printed: set[str] = set()
        self._last_earlier_run = max((row[0] for row in self._query("SELECT id FROM dag_run", ())), default=0)

    def until_ended(self, process: subprocess.Popen[Any]) -> None:
        """Print each task as it ends, and a progress bar of the running step, until ``process`` ends.

        Without a terminal a line now and then replaces the bar.
        """
        columns = (
            TextColumn("   {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            steps: dict[str, _Step] = {}
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.5)
                active = self._print_ended()
                for task_id in _STEPS.keys() & active - steps.keys():
                    steps[task_id] = _Step(self._console, bars, task_id, self._layout, self._aws)
                for task_id, step in steps.items():
                    step.show(task_id in active)
        self._print_ended()

    def _print_ended(self) -> set[str]:
        """Print the tasks that ended since the last call; return the ids of the active ones."""
        rows = self._query(
            """SELECT task_id, state, duration FROM task_instance WHERE run_id =
               (SELECT run_id FROM dag_run WHERE dag_id = ? AND id > ? ORDER BY id LIMIT 1)
               ORDER BY end_date""",
            (self._dag_id, self._last_earlier_run),
        )
        for task_id, state, duration in rows:
            if state in _MARKS and task_id not in self._printed:
                self._printed.add(task_id)
                self._console.print(f"   {_MARKS[state]} {task_id:24} {duration or 0:7.1f} s")
        return {task_id for task_id, state, _ in rows if state in _ACTIVE_STATES}

    def _query(self, text: str, values: tuple[Any, ...]) -> list[Any]:
        # Airflow writes this database meanwhile: read only, and return nothing while it is locked.
        uri = f"{self._database.resolve().as_uri()}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=2)) as connection:
                return connection.execute(text, values).fetchall()
        except sqlite3.OperationalError:
            return []


class _Step:
    """The progress of one step, from the first poll in which its task is active."""

    def __init__(self, console: Console, bars: Progress, task_id: str, layout: RunLayout, aws: Aws) -> None:
        stage, self._verb = _STEPS[task_id]
        self._console = console
        self._bars = bars
        self._bar = bars.add_task(self._verb, visible=False, figures="")
        self._follower = progress.FOLLOWERS[stage](layout, aws.storage)
        self._started, self._started_monotonic = datetime.now(UTC), time.monotonic()
        self._next_poll, self._ended = 0.0, False
        self._next_line, self._last_line = 0.0, ""

    def show(self, active: bool) -> None:
        """Poll the step's objects and show the progress; one last time when the task is no longer active."""
        if self._ended or (active and time.monotonic() < self._next_poll):
            return
        self._ended, self._next_poll = not active, time.monotonic() + _POLL_SECONDS
        with suppress(JobError):  # the next poll tries again
            self._show(self._follower.poll(self._started, datetime.now(UTC)))
        if self._ended:
            self._bars.update(self._bar, visible=False)

    def _show(self, current: progress.Progress) -> None:
        figures = f"{current.unit} · {current.figures}" if current.figures else current.unit
        self._bars.update(
            self._bar, completed=current.done, total=current.total, figures=figures, visible=True
        )
        elapsed = time.monotonic() - self._started_monotonic
        due = self._ended or elapsed >= self._next_line
        if due and not self._console.is_terminal and str(current) != self._last_line:
            self._console.print(f"   {self._verb}: {current}")
            self._next_line, self._last_line = elapsed + progress.poll_interval(elapsed, 0), str(current)


def failure(log: Path) -> str:
    """The first task error in Airflow's log, with the lines that belong to it."""
    lines = log.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        match = _ERROR_LINE.match(line)
        if match:
            rest = itertools.takewhile(lambda following: not _LOG_LINE.match(following), lines[number + 1 :])
            return "\n".join([match[1], *rest])
    return "Airflow's log names no error."


def print_result(console: Console, summary: RunSummary, folder: Path) -> None:
    """Print the run's figures as a table, and where its files are."""
    table = Table(show_header=False, box=None, padding=(0, 2))
    random = " [bold red](RANDOM WEIGHTS: the features mean little)[/]" if summary.weights_are_random else ""
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.rejects_by_reason.items())
    table.add_row("images", f"{summary.images:,} of {summary.labels} labels")
    table.add_row("features", f"{summary.features:,}, {summary.width} wide")
    table.add_row("rejects", f"{summary.rejects:,}" + (f" ({reasons})" if reasons else ""))
    if summary.left_out:
        table.add_row("left out", f"{left_out.text(summary.left_out)}; of {summary.source_files:,} files")
    if summary.labels_without_images:
        table.add_row("without image", escape(f"labels {left_out.names(summary.labels_without_images)}"))
    if summary.conversions:
        table.add_row("converted", ", ".join(f"{n:,} {kind}" for kind, n in summary.conversions.items()))
    for group in summary.labels_alike:
        table.add_row("labels alike", escape(left_out.names(group)))
    table.add_row(
        "backbone",
        f"{summary.backbone}, weights {summary.weights}{random}, "
        f"input size {summary.input_size}, {summary.precision}",
    )
    if summary.quality:
        table.add_row("int8", str(Quality(**summary.quality)))
    table.add_row("embeddings", f"{summary.components} components keep {summary.variance_kept:.2%} variance")
    for stage, seconds in summary.seconds.items():
        table.add_row(f"  {stage}", f"{seconds:8.1f} s")
    console.print(table)
    # Below the table, which would cut the paths at the terminal's width.
    places = {"report": REPORT, "embeddings": "pca", "features": "features", "summary": SUMMARY}
    for what, name in places.items():
        console.print(f"  {what:10}  {folder / name}", soft_wrap=True)
