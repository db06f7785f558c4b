"""The DAG files parse, fast and without heavy packages, and keep the promises that money hangs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pipeline_harness import python

DAG_FILES = {"fruit_features.py": ["fruit_features"]}
"""Every DAG file and its DAGs. A new one is added here and gets the tests below."""

HEAVY = ("tensorflow", "keras", "pyspark", "pandas", "sklearn", "ai_edge_litert")


@pytest.fixture(scope="module")
def bag(repo: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(repo / "dags")


@pytest.fixture(scope="module")
def dag(bag: Any) -> Any:
    return bag.dags["fruit_features"]


def test_every_dag_file_is_known(repo: Path) -> None:
    assert {file.name for file in (repo / "dags").glob("*.py")} == set(DAG_FILES)


def test_the_dags_are_those_that_are_known_and_none_fails_to_import(bag: Any) -> None:
    assert bag.import_errors == {}
    assert sorted(bag.dags) == sorted(dag for dags in DAG_FILES.values() for dag in dags)


def test_airflow_does_not_look_for_dags_in_the_package(repo: Path, bag: Any) -> None:
    assert "fruit_pipeline/" in (repo / "dags" / ".airflowignore").read_text().splitlines()
    assert {Path(dag.fileloc).parent for dag in bag.dags.values()} == {repo / "dags"}


@pytest.fixture(scope="module")
def parsed(repo: Path) -> tuple[float, list[str]]:
    """Seconds that the DAG file adds to Airflow's own imports, the best of three, and modules."""
    code = f"""
import json, runpy, sys, time
import airflow, airflow.sdk
import airflow.providers.amazon.aws.operators.emr, airflow.providers.amazon.aws.sensors.emr
import airflow.providers.amazon.aws.triggers.emr
before = set(sys.modules)
sys.path.insert(0, {str(repo / "dags")!r})
start = time.perf_counter()
runpy.run_path({str(repo / "dags" / "fruit_features.py")!r})
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""
    runs = [json.loads(python(code).splitlines()[-1])]
    while runs[-1][0] > 2 and len(runs) < 3:
        runs.append(json.loads(python(code).splitlines()[-1]))
    return min(seconds for seconds, _ in runs), runs[0][1]


def test_parsing_adds_less_than_two_seconds_to_airflows_own_imports(parsed: tuple[float, list[str]]) -> None:
    assert parsed[0] < 2


def test_parsing_imports_nothing_heavy(parsed: tuple[float, list[str]]) -> None:
    assert [name for name in HEAVY if name in parsed[1]] == []


# Policy


def test_every_task_is_tried_at_least_three_times(dag: Any) -> None:
    assert {task.task_id: task.retries for task in dag.tasks if task.retries < 2} == {}
    assert dag.task_dict["terminate_cluster"].retries >= 5


def test_every_sensor_gives_its_worker_slot_back(dag: Any) -> None:
    from airflow.sdk.bases.sensor import BaseSensorOperator

    sensors = [task for task in dag.tasks if isinstance(task, BaseSensorOperator)]
    assert {task.task_id for task in sensors} == {"cluster_ready", "wait_for_extraction", "wait_for_pca"}
    assert all(task.deferrable for task in sensors)


def test_a_sensor_waits_for_a_day_at_most(dag: Any) -> None:
    for task_id in ("cluster_ready", "wait_for_extraction", "wait_for_pca"):
        task = dag.task_dict[task_id]
        assert task.poke_interval * task.max_attempts == 24 * 3600


def test_the_cluster_is_terminated_whatever_happened_and_a_leak_fails_the_run(dag: Any) -> None:
    from airflow.sdk import TriggerRule

    terminate = dag.task_dict["terminate_cluster"]
    assert terminate.is_teardown
    assert terminate.on_failure_fail_dagrun
    assert terminate.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    setups = {task_id for task_id in terminate.upstream_task_ids if dag.task_dict[task_id].is_setup}
    assert setups == {"plan_cluster", "create_cluster"}


def test_no_work_on_the_cluster_can_follow_its_end(dag: Any) -> None:
    assert dag.task_dict["terminate_cluster"].downstream_task_ids == set()
    above = dag.task_dict["terminate_cluster"].get_flat_relative_ids(upstream=True)
    assert {"add_extraction", "cluster_ready", "wait_for_extraction", "add_pca", "wait_for_pca"} <= above


def test_nothing_costs_money_before_every_check_and_upload(dag: Any) -> None:
    above = dag.task_dict["create_cluster"].get_flat_relative_ids(upstream=True)
    stage = {"stage.draw_sample", "stage.export_backbone", "stage.upload_code"}
    assert above == {"guard", "quantise", "plan_cluster", *stage}


def test_the_model_is_quantised_on_a_sample_that_was_drawn(dag: Any) -> None:
    assert {"stage.draw_sample", "stage.export_backbone"} <= dag.task_dict["quantise"].upstream_task_ids
    beside = dag.task_dict["stage.export_backbone"].get_flat_relative_ids(upstream=True)
    assert beside == {"guard"}, "the export waits for nothing"


def test_the_output_is_checked_before_it_is_summed_up(dag: Any) -> None:
    assert "wait_for_pca" in dag.task_dict["check_output"].upstream_task_ids
    assert "check_output" in dag.task_dict["summarise"].get_flat_relative_ids(upstream=True)


def test_the_dag_runs_only_when_asked_and_explains_cost_and_resume(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.catchup is False
    assert {"emr", "features"} <= set(dag.tags)
    for words in ("What it costs", "idle timeout", "When it fails", "run_key", "_SUCCESS"):
        assert words in dag.doc_md


def test_the_defaults_of_the_form_are_valid(dag: Any) -> None:
    dag.params.validate()
    assert dag.params["components"] == 50


def test_numbers_stay_numbers_in_templates(dag: Any) -> None:
    assert dag.render_template_as_native_obj
