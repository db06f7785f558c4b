"""What a run gives to other DAGs, as assets of Airflow: its features, and its embeddings.

An asset is updated when a run has passed its checks and was summed up, never before. Each event tells in
its ``extra`` which run it was and where its rows lie; `examples/follow_up_dag.py` reads it.
"""

from __future__ import annotations

from typing import Any

from image_features.contract import RunLayout, RunSummary

FEATURES = "fruit_features"
EMBEDDINGS = "fruit_embeddings"


def outlets(bucket: str | None) -> list[Any]:
    """The two assets. Their URIs are of the deployment's ``bucket``: a run is one prefix of many."""
    from airflow.sdk import Asset

    if bucket is None:  # each run names its own
        return [Asset(name=FEATURES), Asset(name=EMBEDDINGS)]
    runs = RunLayout(f"s3://{bucket}/runs/*")
    return [Asset(name=FEATURES, uri=runs.features), Asset(name=EMBEDDINGS, uri=runs.pca)]


def tell(events: Any, assets: list[Any], summary: RunSummary) -> None:
    """Fill in the events of a task's ``assets``; ``events``: the task's ``outlet_events``."""
    told = extras(summary)
    for asset in assets:
        events[asset].extra = told[asset.name]


def extras(summary: RunSummary) -> dict[str, dict[str, Any]]:
    """What the event of each asset tells of a run, by the asset's name.

    ``uri`` is the prefix of the rows and their ``_SUCCESS``, ``images`` how many rows there are.
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
