"""Scheduled runs: when they start, and with which Params; invalid settings are refused at parsing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fruit_pipeline import settings
from fruit_pipeline.dag import form as dag_form
from fruit_pipeline.dag import schedule
from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from support.processes import python


@pytest.fixture(scope="module")
def form() -> dict[str, Any]:
    return dag_form.form({"small": "-"})


def deployed(**variables: str) -> Settings:
    return settings.load({"FRUITS_SCHEDULE": "@weekly", "FRUITS_BUCKET": "team-bucket", **variables})


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("0 6 * * 1", "0 6 * * 1"),
        ("@weekly", "0 0 * * 0"),
        ("*/30 8-18 * * mon-fri", "*/30 8-18 * * mon-fri"),
    ],
)
def test_a_schedule_is_a_cron_expression_in_the_deployments_zone(text: str, expression: str) -> None:
    made = schedule.timetable(deployed(FRUITS_SCHEDULE=text, FRUITS_TIME_ZONE="Europe/Paris"))
    assert (made.expression, str(made.timezone)) == (expression, "Europe/Paris")


@pytest.mark.parametrize("text", ["", "   "])
def test_without_a_schedule_no_run_starts_by_itself(text: str, form: dict[str, Any]) -> None:
    quiet = deployed(FRUITS_SCHEDULE=text, FRUITS_SCHEDULE_PARAMS="/no/such.json")
    assert schedule.timetable(quiet) is None
    assert schedule.scheduled_params(quiet, form) == {}
    assert "no" in schedule.doc_note(quiet, {})


@pytest.mark.parametrize(
    "text", ["often", "61 * * * *", "0 6 * *", "0 0 6 * * 1", "0 0 30 2 *", "@once", "@continuous", "@often"]
)
def test_what_is_no_schedule_is_named(text: str) -> None:
    with pytest.raises(
        JobError, match=rf"^FRUITS_SCHEDULE is '{re.escape(text)}'; expected a cron expression"
    ):
        schedule.timetable(deployed(FRUITS_SCHEDULE=text))


def written(folder: Path, values: Any) -> Settings:
    file = folder / "weekly.json"
    file.write_text(values if isinstance(values, str) else json.dumps(values))
    return deployed(FRUITS_SCHEDULE_PARAMS=str(file))


def test_the_file_says_what_differs_from_the_form(form: dict[str, Any], tmp_path: Path) -> None:
    values = {"source": "s3://photos/fruits", "components": None, "variance": 0.9, "notify": "failures"}
    assert schedule.scheduled_params(written(tmp_path, values), form) == values
    assert form["source"].value == "", "the form keeps its own defaults"
    assert form["components"].value == 50


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": "s3://p", "sauce": 1}, "weekly.json: there is no Param 'sauce'; there are alpha, "),
        ({"source": "s3://p", "components": "50"}, "weekly.json: components: '50' is not of type 'null', "),
        ({"source": "s3://p", "components": 0}, "weekly.json: components: 0 is less than the minimum of 1"),
        ({"source": "s3://p", "shape": "huge"}, "weekly.json: shape: 'huge' is not one of "),
        (
            {"source": "s3://p", "run_key": "r1"},
            "weekly.json: 'run_key' cannot be set: each scheduled run has",
        ),
        (["source"], "weekly.json holds no JSON object; expected Params by name"),
        ("{source:", "weekly.json is not JSON: "),
        ({}, "FRUITS_SCHEDULE is set, but its runs could not start: no source: set the Param 'source'"),
        (
            {"source": "s3://p", "reuse": "/x"},
            "weekly.json: reuse is '/x'; expected an earlier run's key",
        ),
    ],
)
def test_a_file_at_fault_is_named_with_the_key(
    values: Any, message: str, form: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(JobError, match=re.escape(message)) as refused:
        schedule.scheduled_params(written(tmp_path, values), form)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_cannot_be_read_is_named(form: dict[str, Any]) -> None:
    with pytest.raises(JobError, match=r"/no/such\.json cannot be read: No such file"):
        schedule.scheduled_params(deployed(FRUITS_SCHEDULE_PARAMS="/no/such.json"), form)


def test_a_deployments_own_source_and_bucket_are_enough() -> None:
    form = dag_form.form({"small": "-"}, "s3://photos/fruits")
    assert schedule.scheduled_params(deployed(), form) == {}
    with pytest.raises(
        JobError, match="its runs could not start: no bucket: set the Param 'bucket', or FRUITS"
    ):
        schedule.scheduled_params(replace(deployed(), bucket=None), form)


@pytest.mark.parametrize(
    ("run_type", "conf", "components"),
    [
        ("scheduled", {}, 20),
        ("backfill", None, 20),
        ("backfill", {"components": 30}, 30),
        ("manual", {}, 50),
        ("asset_triggered", {}, 50),
    ],
)
def test_only_scheduled_runs_and_backfills_take_the_files_params(
    run_type: str, conf: dict[str, Any] | None, components: int
) -> None:
    context = {
        "params": {"components": 50, "seed": 0, **(conf or {})},
        "dag_run": SimpleNamespace(run_type=run_type, conf=conf),
    }
    assert schedule.params_of_run(context, {"components": 20}) == {"components": components, "seed": 0}


def test_the_dags_page_shows_the_schedule_and_its_params() -> None:
    text = schedule.doc_note(deployed(FRUITS_TIME_ZONE="Europe/Paris"), {"source": "s3://p", "total": 9})
    assert '`@weekly` (Europe/Paris), with `source` = `"s3://p"`, `total` = `9`' in text
    assert "with the defaults of the form" in schedule.doc_note(deployed(), {})


def parsed(repo: Path, **variables: str) -> dict[str, Any]:
    """What Airflow makes of the DAG file in a deployment: its DAG, or its import error."""
    code = f"""
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(repo / "dags" / "fruit_features.py")!r})
dag = bag.dags.get("fruit_features")
found = {{"errors": list(bag.import_errors.values())}}
if dag:
    found |= {{"schedule": dag.timetable.expression, "paused": dag.is_paused_upon_creation,
              "at_once": dag.max_active_runs, "catchup": dag.catchup, "doc": dag.doc_md}}
print(json.dumps(found))
"""
    return json.loads(python(code, **variables).splitlines()[-1])


def test_airflow_reads_the_schedule_and_the_number_of_runs(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "weekly.json"
    file.write_text('{"source": "s3://photos/fruits", "total": 5000}')
    found = parsed(
        repo,
        FRUITS_BUCKET="team-bucket",
        FRUITS_SCHEDULE="0 6 * * 1",
        FRUITS_SCHEDULE_PARAMS=str(file),
        FRUITS_MAX_ACTIVE_RUNS="3",
    )
    assert found["errors"] == []
    assert (found["schedule"], found["paused"], found["catchup"]) == ("0 6 * * 1", True, False)
    assert found["at_once"] == 3
    assert "`total` = `5000`" in found["doc"]


def test_a_bad_file_is_an_import_error_that_names_it(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / "weekly.json"
    file.write_text('{"source": "s3://photos/fruits", "total": "all"}')
    found = parsed(repo, FRUITS_BUCKET="b-1", FRUITS_SCHEDULE="@daily", FRUITS_SCHEDULE_PARAMS=str(file))
    (error,) = found["errors"]
    assert f"JobError: FRUITS_SCHEDULE_PARAMS: {file}: total: 'all' is not of type" in error
