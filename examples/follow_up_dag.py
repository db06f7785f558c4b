"""
### Follows the runs of `fruit_features`

Starts when a run has passed its checks, and counts the labels of its embeddings: put what you do with
embeddings in place of that. Copy this file to where your Airflow looks for DAGs; it reads
`FRUITS_BUCKET`, as the pipeline does.

The event of the asset tells which run it was: `run_key`, `uri` (where the rows lie), `images`,
`components`, `variance_kept`. Several runs that end while this DAG is paused come as several events of one
run of it.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from typing import Any

from airflow.sdk import Asset, dag, get_current_context, task

# As the pipeline names it. A reference by the name alone would start this DAG, but without the events.
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
            raise ValueError(f"{run['uri']} holds {labels.total()} rows, {run['images']} were announced")
        return dict(labels)

    count_labels.expand(run=runs())


follow_fruit_features()
