"""Airflow assets that a run updates, so that other DAGs can follow it: its features and its embeddings.

They are updated after a run has passed its checks and its summary is written. The ``extra`` of each event
names the run and the prefix of its rows; `examples/follow_up_dag.py` reads it.
"""

from __future__ import annotations

from typing import Any

from image_features.contract import RunLayout, RunSummary

FEATURES = "fruit_features"
EMBEDDINGS = "fruit_embeddings"


def outlets(bucket: str | None) -> list[Any]:
    """The two assets. Their URIs cover all runs of the deployment's ``bucket``."""
    from airflow.sdk import Asset

    if bucket is None:  # each run names its own bucket
        return [Asset(name=FEATURES), Asset(name=EMBEDDINGS)]
    runs = RunLayout(f"s3://{bucket}/runs/*")
    return [Asset(name=FEATURES, uri=runs.features), Asset(name=EMBEDDINGS, uri=runs.pca)]


def fill_events(events: Any, assets: list[Any], summary: RunSummary) -> None:
    """Set the ``extra`` of a task's ``outlet_events`` for its ``assets``."""
    by_name = extras(summary)
    for asset in assets:
        events[asset].extra = by_name[asset.name]


def extras(summary: RunSummary) -> dict[str, dict[str, Any]]:
    """The ``extra`` of each asset's event, by the asset's name.

    ``uri`` is the prefix of the rows and their ``_SUCCESS``, ``images`` the number of rows.
    """
    run = {"run_key": summary.run_key, "images": summary.features}
    return {
        FEATURES: {**run, "uri": summary.places.features, "rejects": summary.rejects},
        EMBEDDINGS: {
            **run,
            "uri": summary.places.embeddings,
            "components": summary.components,
            "variance_kept": summary.variance_kept,
        },
    }
