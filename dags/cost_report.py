"""
### What the runs cost, what lies around, and what nobody needs any more

Every Monday: takes the bill of the tag `image-features-run` from Cost Explorer, by run, day and
service; holds each run's estimate against it; lists the clusters that are alive, the runs and uploads
that somebody forgot; deletes the samples, code and logs of finished runs after
`FRUITS_RETENTION_DAYS`. The result is one page, `reports/cost-<date>.html` in the bucket, and one
message to the topic.

**What it costs**: a cent for each request to Cost Explorer, of which one does in most weeks, and a
listing of `runs/`.

**When the bill is empty**: activate `image-features-run` as a cost allocation tag, in Billing of the
account that pays. It takes up to a day and does not reach back.

**When it fails**: clear the failed task. A rerun on the same day writes the same page again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from fruit_pipeline.cost import bill
from fruit_pipeline.dag.errors import fail_on_bad_input
from fruit_pipeline.housekeeping import tasks

COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 5),
    "catchup": False,
    "max_active_runs": 1,
    "tags": ["emr", "cost"],
    "default_args": {"retries": 2, "retry_delay": timedelta(minutes=5), "retry_exponential_backoff": True},
}
REAPER_DOC = """
### Ends clusters that nobody waits for any more

Every hour: looks at each living cluster with a run's tag. One whose time is over, that is older than
`FRUITS_REAP_HOURS`, or that has had no step for an hour longer than its own idle timeout, is told to
the topic, and terminated when `FRUITS_REAP` is `true`.

It is the last net below a run's own teardown and EMR's idle timeout. Protect a cluster against
termination to keep it.
"""


@dag(
    schedule="0 6 * * 1",
    doc_md=__doc__,
    params={
        "days": Param(
            28,
            type="integer",
            minimum=7,
            maximum=bill.MAX_DAYS,
            title="Days",
            description="The bill is of so many days before today.",
        )
    },
    **COMMON,
)
def cost_report() -> None:
    @task
    @fail_on_bad_input
    def clean_up() -> list[dict[str, Any]]:
        return tasks.clean_up()

    @task
    @fail_on_bad_input
    def write_report(cleaned: list[dict[str, Any]]) -> dict[str, str]:
        return tasks.write_report(get_current_context()["params"]["days"], cleaned)

    @task
    def notify_report(report: dict[str, str]) -> None:
        tasks.notify_report(report)

    notify_report(write_report(clean_up()))


@dag(schedule="@hourly", doc_md=REAPER_DOC, **COMMON)
def reap_clusters() -> None:
    @task
    @fail_on_bad_input
    def reap() -> list[dict[str, Any]]:
        return tasks.reap()

    reap()


cost_report()
reap_clusters()
