"""The DAG files parse, fast and without heavy packages, and keep the promises that costs depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.processes import python

DAG_FILES = {
    "fruit_features.py": ["fruit_features"],
    "cost_report.py": ["cost_report", "reap_clusters"],
    "notebook_cluster.py": ["notebook_cluster"],
}
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


@pytest.mark.parametrize("file", sorted(DAG_FILES))
def test_parsing_imports_nothing_heavy(repo: Path, file: str) -> None:
    """What makes parsing slow: the scheduler reads the files again and again."""
    code = f"""
import json, runpy, sys
sys.path.insert(0, {str(repo / "dags")!r})
runpy.run_path({str(repo / "dags")!r} + "/{file}")
print(json.dumps(sorted(sys.modules)))
"""
    imported = json.loads(python(code).splitlines()[-1])
    assert "fruit_pipeline.settings" in imported
    assert [name for name in HEAVY if name in imported] == []


# Policy


def test_every_task_is_tried_at_least_three_times(bag: Any) -> None:
    tasks = [task for dag in bag.dags.values() for task in dag.tasks]
    assert {(task.dag_id, task.task_id): task.retries for task in tasks if task.retries < 2} == {}
    assert {task.retries >= 5 for task in tasks if task.task_id == "terminate_cluster"} == {True}


def test_every_sensor_gives_its_worker_slot_back(dag: Any) -> None:
    from airflow.sdk.bases.sensor import BaseSensorOperator

    sensors = [task for task in dag.tasks if isinstance(task, BaseSensorOperator)]
    assert {task.task_id for task in sensors} == {"cluster_ready", "wait_for_extraction", "wait_for_pca"}
    assert all(task.deferrable for task in sensors)


def test_a_sensor_waits_as_long_as_the_plan_says(dag: Any) -> None:
    limits = {"cluster_ready": "start", "wait_for_extraction": "extraction", "wait_for_pca": "reduction"}
    for task_id, stage in limits.items():
        task = dag.task_dict[task_id]
        assert "limit_seconds" in task.template_fields
        limit = task.limit_seconds
        assert (limit.operator.task_id, limit.key) == ("plan_cluster", f"{stage}_limit")


@pytest.mark.parametrize("dag_id", ["fruit_features", "notebook_cluster"])
def test_the_cluster_is_terminated_however_the_run_ends_and_a_leak_fails_the_run(
    bag: Any, dag_id: str
) -> None:
    from airflow.sdk import TriggerRule

    dag = bag.dags[dag_id]
    terminate = dag.task_dict["terminate_cluster"]
    assert terminate.is_teardown
    assert terminate.on_failure_fail_dagrun
    assert terminate.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    setups = {task_id for task_id in terminate.upstream_task_ids if dag.task_dict[task_id].is_setup}
    assert setups == {"plan_cluster", "create_cluster"}


def test_no_work_on_the_cluster_can_follow_its_end(dag: Any) -> None:
    assert dag.task_dict["terminate_cluster"].downstream_task_ids == {"notify_run_ended"}
    above = dag.task_dict["terminate_cluster"].get_flat_relative_ids(upstream=True)
    assert {"add_extraction", "cluster_ready", "wait_for_extraction", "add_pca", "wait_for_pca"} <= above


class Instance(NamedTuple):
    """The fields of a task instance that Airflow reads."""

    task_id: str
    state: str


def run_state(dag: Any, states: dict[str, str]) -> str:
    """What Airflow makes of a run whose tasks ended so; those that are not named succeeded.

    By its own choice of the tasks that count. Failures spread as the scheduler spreads them.
    """
    from airflow.models.dagrun import DagRun
    from airflow.utils.state import State

    ended: dict[str, str] = {}
    for task in dag.topological_sort():
        above = [ended[task_id] for task_id in task.upstream_task_ids]
        broken = task.trigger_rule == "all_success" and {"failed", "upstream_failed"} & set(above)
        ended[task.task_id] = "upstream_failed" if broken else states.get(task.task_id, "success")
    instances = [Instance(task_id, state) for task_id, state in ended.items()]
    counting = DagRun._tis_for_dagrun_state(DagRun(), dag=dag, tis=instances)
    assert counting
    return "failed" if any(instance.state in State.failed_states for instance in counting) else "success"


@pytest.mark.parametrize("dag_id", ["fruit_features", "notebook_cluster"])
def test_a_run_fails_when_any_of_its_work_does_and_messages_decide_nothing(bag: Any, dag_id: str) -> None:
    dag = bag.dags[dag_id]
    assert run_state(dag, {}) == "success"
    states = {task.task_id: run_state(dag, {task.task_id: "failed"}) for task in dag.tasks}
    assert {task_id for task_id, state in states.items() if state == "success"} <= {"notify_run_ended"}


def test_the_message_about_the_end_comes_last_however_the_run_ends(dag: Any) -> None:
    from airflow.sdk import TriggerRule

    told = dag.task_dict["notify_run_ended"]
    assert told.is_teardown
    assert not told.on_failure_fail_dagrun
    assert told.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS
    assert told.downstream_task_ids == set()
    assert told.get_flat_relative_ids(upstream=True) == set(dag.task_ids) - {"notify_run_ended"}
    # A setup right above would keep it from running when that one fails.
    assert not [task_id for task_id in told.upstream_task_ids if dag.task_dict[task_id].is_setup]


def test_every_task_stores_its_error_for_the_message(dag: Any) -> None:
    from fruit_pipeline.notify.messages import store_error

    assert {task.task_id for task in dag.tasks if task.on_failure_callback != [store_error]} == set()


def test_the_report_is_weekly_and_the_reaper_hourly_and_neither_catches_up(bag: Any) -> None:
    assert bag.dags["cost_report"].schedule == "0 6 * * 1"
    assert bag.dags["reap_clusters"].schedule == "@hourly"
    for dag_id in ("cost_report", "reap_clusters"):
        assert bag.dags[dag_id].catchup is False
        assert bag.dags[dag_id].max_active_runs == 1


def test_the_wait_for_a_notebook_cluster_is_deferred_and_polls_every_five_minutes(bag: Any) -> None:
    dag = bag.dags["notebook_cluster"]
    assert dag.task_dict["cluster_ready"].deferrable
    assert dag.task_dict["wait_for_end"].poke_interval == 300
    assert "wait_for_end" in dag.task_dict["terminate_cluster"].upstream_task_ids


def test_nothing_costs_money_before_every_check_and_upload(dag: Any) -> None:
    above = dag.task_dict["create_cluster"].get_flat_relative_ids(upstream=True)
    stage = {"stage.draw_sample", "stage.export_backbone", "stage.upload_code"}
    assert above == {"preflight", "quantise", "plan_cluster", *stage}


def test_the_model_is_quantised_on_a_sample_that_was_drawn(dag: Any) -> None:
    assert {"stage.draw_sample", "stage.export_backbone"} <= dag.task_dict["quantise"].upstream_task_ids
    beside = dag.task_dict["stage.export_backbone"].get_flat_relative_ids(upstream=True)
    assert beside == {"preflight"}, "the export waits for nothing"


def test_the_output_is_checked_before_it_is_summed_up(dag: Any) -> None:
    assert "wait_for_pca" in dag.task_dict["check_output"].upstream_task_ids
    assert "check_output" in dag.task_dict["summarise"].get_flat_relative_ids(upstream=True)


def test_every_dag_explains_itself_and_bears_a_tag(bag: Any) -> None:
    for dag in bag.dags.values():
        assert "emr" in dag.tags
        assert dag.doc_md
        assert dag.doc_md.strip().startswith("### ")


def test_the_dag_has_no_schedule_by_default_and_explains_cost_and_resume(dag: Any) -> None:
    assert dag.schedule is None
    assert dag.catchup is False
    assert dag.max_active_runs == 1
    assert {"emr", "features"} <= set(dag.tags)
    for words in ("**Cost**", "idle timeout", "**When a run fails**", "run_key", "_SUCCESS", "**Schedule**"):
        assert words in dag.doc_md


def test_the_defaults_of_the_forms_are_valid(bag: Any, dag: Any) -> None:
    for each in bag.dags.values():
        each.params.validate()
    assert dag.params["components"] == 50


def test_numbers_stay_numbers_in_templates(dag: Any) -> None:
    assert dag.render_template_as_native_obj
