"""
### Follows the runs of `fruit_features`

Starts when a run has passed its checks, and counts the labels of its embeddings: replace that by your own
use of embeddings. Copy this file to the DAGs folder of your Airflow; it reads `FRUITS_BUCKET`, as the
pipeline does.

The event of the asset describes the run: `run_key`, `uri` (of the rows), `images`, `components`,
`variance_kept`. If several runs end while this DAG is paused, one run of it receives several events.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from typing import Any

from airflow.sdk import Asset, dag, get_current_context, task

# The pipeline's name and URI. A reference by the name alone would start this DAG, but without the events.
EMBEDDINGS = Asset(name="fruit_embeddings", uri=f"s3://{os.environ['FRUITS_BUCKET']}/runs/*/pca")


@dag(schedule=[EMBEDDINGS], catchup=False, doc_md=__doc__, tags=["features"])
def follow_fruit_features() -> None:
    @task
    def runs() -> list[dict[str, Any]]:
        return [event.extra for event in get_current_context()["triggering_asset_events"][EMBEDDINGS]]

    @task
    def count_labels(run: dict[str, Any]) -> dict[str, int]:
        import pyarrow.parquet as pq
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        s3 = S3Hook(os.environ.get("FRUITS_AWS_CONN_ID", "aws_default"))
        bucket, prefix = s3.parse_s3_url(f"{run['uri']}/")
        labels: Counter[str] = Counter()
        for key in s3.list_keys(bucket, prefix):
            if key.endswith(".parquet"):
                shard = io.BytesIO(s3.get_key(key, bucket).get()["Body"].read())
                labels.update(pq.read_table(shard, columns=["label"]).column("label").to_pylist())
        if labels.total() != run["images"]:
            raise ValueError(f"{run['uri']} has {labels.total()} rows, but the event says {run['images']}")
        return dict(labels)

    count_labels.expand(run=runs())


follow_fruit_features()
