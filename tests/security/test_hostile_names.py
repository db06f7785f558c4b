"""Names of images, labels and folders pass through Airflow, EMR and the report, and nothing evaluates them.

A whole run of the DAG, whose fields Airflow renders with Jinja's native types.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from planting import HOSTILE_LABELS

from support.stages import DagRun, Stage

pytestmark = pytest.mark.e2e


def test_the_run_has_the_names_as_they_were_given(finished: DagRun, source: Path) -> None:
    summary = finished.summary()
    assert summary["request"]["source"] == str(source)
    assert summary["request"]["labels"] == list(HOSTILE_LABELS)
    assert summary["labels"] == len(HOSTILE_LABELS)
    assert summary["rejects"] == 1


def test_airflow_evaluated_nothing_of_them(finished: DagRun, stage: Stage, source: Path) -> None:
    """Neither Jinja (49 in place of 7*7) nor Python (a list in place of its text), in any field or result."""
    assert finished.ok
    database = stage.demo.airflow_home / "airflow.db"
    rendered = "SELECT rendered_fields FROM rendered_task_instance_fields WHERE task_id = 'stage.draw_sample'"
    result = "SELECT value FROM xcom WHERE task_id = 'preflight' AND key = 'return_value'"
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
        fields = [json.loads(row[0])["op_args"][0] for row in opened.execute(rendered)]
        results = [json.loads(row[0]) for row in opened.execute(result)]
    assert fields, "no rendered field is stored"
    assert results
    for request in (*fields, *results):
        assert request["source"] == str(source)
        assert request["labels"] == list(HOSTILE_LABELS)


def test_nothing_of_them_ran_on_this_machine(finished: DagRun, stage: Stage, repo: Path) -> None:
    assert finished.ok
    for folder in (stage.demo.work, Path.cwd(), repo):
        assert [path for path in folder.rglob("hacked") if path.name == "hacked"] == []


def test_the_report_shows_them_and_runs_none(finished: DagRun, stage: Stage, browser: Any) -> None:
    """As the local AWS serves it, in a sandbox, by a link such as Airflow's."""
    page = browser.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
    key = finished.storage.uri_of("report.html").removeprefix("s3://")
    page.goto(f"{stage.aws.endpoint_url}/{key}")
    page.wait_for_selector("#labels button", timeout=120_000)
    assert page.title() == "Report of run planted"
    shown = page.locator("#labels button").all_inner_texts()
    assert {text.rpartition(" (")[0] for text in shown} == set(HOSTILE_LABELS)
    assert page.evaluate("window.origin") == "null"
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert "default-src 'none'" in policy
    page.close()
    assert trouble == []
