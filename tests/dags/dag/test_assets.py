"""The two assets that other DAGs can follow, and the events with the run's figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline.dag import assets
from support.summaries import run_summary


def test_the_assets_name_the_deployments_bucket() -> None:
    found = {asset.name: asset.uri for asset in assets.outlets("team")}
    assert found == {
        "fruit_features": "s3://team/runs/*/features",
        "fruit_embeddings": "s3://team/runs/*/pca",
    }


def test_without_a_bucket_of_the_deployment_the_assets_have_their_names_only() -> None:
    assert [asset.name for asset in assets.outlets(None)] == ["fruit_features", "fruit_embeddings"]


def test_an_event_has_the_run_key_the_prefix_and_the_number_of_rows() -> None:
    found = assets.extras(run_summary())
    assert found["fruit_features"] == {
        "run_key": "r1",
        "images": 10_240,
        "uri": "s3://fruits/runs/r1/features",
        "rejects": 3,
    }
    assert found["fruit_embeddings"] == {
        "run_key": "r1",
        "images": 10_240,
        "uri": "s3://fruits/runs/r1/pca",
        "components": 50,
        "variance_kept": 0.71654,
    }


def test_only_the_task_after_the_checks_updates_them(repo: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    dag: Any = DagBag(repo / "dags" / "fruit_features.py").dags["fruit_features"]
    updating = {task.task_id for task in dag.tasks if task.outlets}
    assert updating == {"summarise"}
    assert "check_output" in dag.task_dict["summarise"].get_flat_relative_ids(upstream=True)


def test_the_example_follows_the_same_asset(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.dag_processing.dagbag import DagBag

    monkeypatch.setenv("FRUITS_BUCKET", "team")
    bag = DagBag(repo / "examples" / "follow_up_dag.py")
    assert bag.import_errors == {}
    followed = bag.dags["follow_fruit_features"].timetable.asset_condition.objects
    assert list(followed) == [asset for asset in assets.outlets("team") if asset.name == assets.EMBEDDINGS]
