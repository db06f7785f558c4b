"""The demo shows the first error of a log, the tasks as they end, the steps' progress, and the result."""

from __future__ import annotations

import io
import re
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo.view import Watch, failure, print_result
from fruit_pipeline.model.quantise import Quality
from image_features.contract import LeftOut, RunLayout
from support.local_aws import BUCKET, LocalAws
from support.summaries import run_summary
from support.waiting import eventually


def string_console(**options: Any) -> Console:
    return Console(file=io.StringIO(), width=200, highlight=False, **options)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_first_error_of_a_log_is_shown_with_the_lines_that_follow_it(tmp_path: Path) -> None:
    log = tmp_path / "airflow.log"
    log.write_text(
        "2026-11-20T10:00:00.0Z [info ] starting\n"
        "Traceback (most recent call last):\n"
        '  File "x.py", line 1, in y\n'
        "airflow.sdk.exceptions.AirflowFailException: step s-1 failed; log: s3://b/k\n"
        "JobError: the sample is empty\n"
        "2026-11-20T10:00:01.0Z [error] the run failed\n"
        "ValueError: a later one\n"
    )
    assert failure(log) == "step s-1 failed; log: s3://b/k\nJobError: the sample is empty"


def test_a_log_without_an_error_says_so(tmp_path: Path) -> None:
    log = tmp_path / "airflow.log"
    log.write_bytes(b"2026-11-20T10:00:00.0Z [info ] all well\n\xff\n")
    assert failure(log) == "Airflow's log names no error."


def test_the_result_counts_the_files_left_out_and_names_labels_without_an_image(tmp_path: Path) -> None:
    console = string_console()
    left_out = [LeftOut("not-drawn", ".jpg", 9, "a/1.jpg"), LeftOut("no-decoder", ".heic", 1, "[b]/1.HEIC")]
    summary = run_summary(source_files=10_253, left_out=left_out, labels_without_images=["[b]"])
    print_result(console, summary, tmp_path)
    text = " ".join(text_of(console).split())
    assert "9 not-drawn (9 .jpg), 1 no-decoder (1 .heic); of 10,253 files" in text
    assert "labels '[b]'" in text


def test_the_result_has_its_figures_and_paths(tmp_path: Path) -> None:
    console = string_console()
    print_result(console, run_summary(), tmp_path)
    text = text_of(console)
    for words in (
        "10,243 of 131 labels",
        "10,240, 1280 wide",
        "3 (1 empty, 2 truncated)",
        "50 components keep 71.65% variance",
        "imagenet, input size 160, float32",
        "extract features",
        str(tmp_path / "report.html"),
        str(tmp_path / "pca"),
        str(tmp_path / "summary.json"),
    ):
        assert words in text
    assert "RANDOM" not in text
    assert "int8" not in text


def test_the_quality_of_int8_is_shown(tmp_path: Path) -> None:
    console = string_console()
    quality = asdict(Quality(200, 400, 0.9868, 0.9718, 0.7975, 0.795, 0.91, 50, 0.7551, 0.7539))
    print_result(console, run_summary(precision="int8", quality=quality), tmp_path)
    text = " ".join(text_of(console).split())
    assert "input size 160, int8" in text
    for words in (
        "0.9868 on average and 0.9718 at least",
        "79.50% (float32 79.75%)",
        "75.39% (float32 75.51%)",
    ):
        assert words in text


def test_random_weights_are_marked_in_capitals(tmp_path: Path) -> None:
    console = string_console()
    print_result(console, run_summary(weights="random:0", weights_are_random=True), tmp_path)
    assert "RANDOM WEIGHTS: the features mean little" in text_of(console)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The two tables of Airflow's database that the demo reads, with an earlier run."""
    path = tmp_path / "airflow.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE dag_run (id INTEGER, dag_id TEXT, run_id TEXT)")
        db.execute("CREATE TABLE task_instance (task_id, run_id, state, duration, end_date)")
        db.execute("INSERT INTO dag_run VALUES (1, 'fruit_features', 'earlier')")
        db.execute("INSERT INTO task_instance VALUES ('old_task', 'earlier', 'success', 1.0, 1)")
    return path


def test_the_tasks_of_this_run_are_shown_once_each_as_they_end(database: Path, aws: Aws) -> None:
    console = string_console()
    watch = Watch(console, database, "fruit_features", RunLayout(f"s3://{BUCKET}/runs/watched"), aws)
    with sqlite3.connect(database) as db:
        db.execute("INSERT INTO dag_run VALUES (2, 'fruit_features', 'this')")
        rows = [
            ("preflight", "this", "success", 1.25, 1),
            ("create_cluster", "this", "failed", 2.0, 2),
            ("check_output", "this", "upstream_failed", None, 3),
            ("terminate_cluster", "this", "running", None, None),
        ]
        db.executemany("INSERT INTO task_instance VALUES (?, ?, ?, ?, ?)", rows)
    db.close()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"]) as process:
        watch.until_ended(process)
    lines = [line.split() for line in text_of(console).splitlines() if line.strip()]
    assert lines == [
        ["ok", "preflight", "1.2", "s"],
        ["failed", "create_cluster", "2.0", "s"],
        ["not", "run", "check_output", "0.0", "s"],
    ]


def test_a_run_whose_database_does_not_exist_yet_is_watched_without_an_error(
    tmp_path: Path, aws: Aws
) -> None:
    console = string_console()
    watch = Watch(console, tmp_path / "none.db", "fruit_features", RunLayout(f"s3://{BUCKET}/runs/none"), aws)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        watch.until_ended(process)
    assert text_of(console).strip() == ""


@pytest.fixture
def extracting(database: Path, local_aws: LocalAws, standing_run: Path) -> RunLayout:
    """A run whose extraction is active and has written two of five shards."""
    with sqlite3.connect(database) as db:
        db.execute("INSERT INTO task_instance VALUES ('wait_for_extraction', 'this', 'deferred', NULL, NULL)")
    db.close()
    for file in ("sample/_SUCCESS", "features/shard-00000.parquet", "features/shard-00002.parquet"):
        local_aws.put(f"runs/counted/{file}", (standing_run / file).read_bytes())
    return RunLayout(f"s3://{BUCKET}/runs/counted")


def watched(console: Console, database: Path, layout: RunLayout, aws: Aws, expected: str = "") -> str:
    """What is shown of a run that appears after the watch began, while a process runs.

    The process runs until ``expected`` is shown, and then for some more polls.
    """
    watch = Watch(console, database, "fruit_features", layout, aws)
    with sqlite3.connect(database) as db:
        db.execute("INSERT INTO dag_run VALUES (2, 'fruit_features', 'this')")
    db.close()
    wait = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(wait, stdin=subprocess.PIPE) as process:

        def end() -> None:
            try:
                eventually(lambda: expected in text_of(console))
                time.sleep(1.5)
            finally:
                process.communicate()

        ending = threading.Thread(target=end)
        ending.start()
        watch.until_ended(process)
        ending.join()
    return text_of(console)


def test_a_step_that_runs_has_a_bar_of_its_images(database: Path, extracting: RunLayout, aws: Aws) -> None:
    console = string_console(force_terminal=True, color_system=None)
    text = watched(console, database, extracting, aws, "24/50 images")
    assert re.search(r"extracting .+24/50 images · rejects 0", text)
    assert "extracting: " not in text


def test_without_a_terminal_the_bar_is_a_line_which_is_not_repeated(
    database: Path, extracting: RunLayout, aws: Aws
) -> None:
    lines = watched(string_console(), database, extracting, aws, "24 / 50").splitlines()
    assert [line.strip() for line in lines if line.strip()] == ["extracting: images 24 / 50 · rejects 0"]


def test_a_step_whose_sample_does_not_exist_yet_has_no_bar(
    database: Path, extracting: RunLayout, aws: Aws
) -> None:
    del extracting
    assert watched(string_console(), database, RunLayout(f"s3://{BUCKET}/runs/none"), aws).strip() == ""
