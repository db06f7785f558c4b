"""
### Weekly cost report and clean-up

Every Monday: reads the bill of the tag `image-features-run` from Cost Explorer, by run, day and service, and
compares it with the estimate of each run; lists living clusters, runs without a result and incomplete
uploads; deletes the samples, code and logs of finished runs after `FRUITS_RETENTION_DAYS`. The result is one
page, `reports/cost-<date>.html` in the bucket, and one message to the topic.

**Cost**: one cent per request to Cost Explorer, of which most weeks need one, and a listing of `runs/`.

**When the bill is empty**: activate `image-features-run` as a cost allocation tag, in the Billing console of
the account that pays. Activation takes up to a day and does not cover earlier days.

**When a run fails**: clear the failed task. A rerun on the same day replaces the page.
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
### Hourly search for clusters that no run uses

Looks at each living cluster with the tag of a run. A cluster is reported to the topic if the time in its tag
`image-features-until` has passed; if it is older than `FRUITS_REAP_HOURS`; or if it has had no step for an
hour longer than its own idle timeout. If `FRUITS_REAP` is `true`, it is also terminated.

This is the last safeguard, after a run's own teardown and EMR's idle timeout. To keep a cluster, switch on
its termination protection.
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
            description="The report covers this number of days before today.",
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
