"""The work of the tasks of `cost_report` and `reap_clusters`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cost import bill
from fruit_pipeline.housekeeping import clean, cost_page, reaper, stored_runs
from fruit_pipeline.notify import messages
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.run import summary
from fruit_pipeline.settings import Settings
from image_features.contract import SUMMARY, RunCost
from image_features.errors import JobError

log = logging.getLogger(__name__)

ABANDONED_DAYS = 7
"""Age from which the report lists a run without a summary.json, or an upload that was not completed."""


def _bucket(deployment: Settings) -> str:
    if not deployment.bucket:
        raise JobError("no bucket: set FRUITS_BUCKET, the bucket to report on and to clean")
    return deployment.bucket


def clean_up() -> list[dict[str, Any]]:
    """Delete the temporary data of finished runs; return what was deleted, by run."""
    deployment = settings.load()
    aws, bucket = Aws.of_deployment(deployment), _bucket(deployment)
    s3, emr = aws.client("s3"), aws.client("emr")
    cleaned = clean.clean_by_age(s3, emr, bucket, deployment.retention_days, datetime.now(UTC))
    return [cleaning.figures() for cleaning in cleaned]


def write_report(days: int, cleaned: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Write the page about the last ``days`` days; return its URI and the message about it."""
    deployment, now = settings.load(), datetime.now(UTC)
    aws, bucket = Aws.of_deployment(deployment), _bucket(deployment)
    s3 = aws.client("s3")
    runs = stored_runs.runs_of(s3, bucket)
    facts = cost_page.Facts(
        time=now,
        bill=bill.fetch(aws.client("ce"), now.date(), days),
        costs=_costs(s3, bucket, runs, now - timedelta(days=days)),
        clusters=reaper.living_clusters(aws.client("emr")),
        unfinished=[
            run for run in runs if not run.ended and run.untouched_for(now) > timedelta(days=ABANDONED_DAYS)
        ],
        uploads=stored_runs.abandoned_uploads(s3, bucket, now - timedelta(days=ABANDONED_DAYS)),
        cleaned=cleaned,
        abandoned_days=ABANDONED_DAYS,
        retention_days=deployment.retention_days,
    )
    words = messages.words_of(deployment)
    key = f"reports/cost-{now:%Y-%m-%d}.html"
    html = cost_page.page(words, facts).encode()
    s3.put_object(Bucket=bucket, Key=key, Body=html, ContentType="text/html; charset=utf-8")
    if facts.bill.problem:
        log.warning("no bill: %s", facts.bill.problem)
    message = cost_page.message(words, facts, f"s3://{bucket}/{key}")
    return {"page": f"s3://{bucket}/{key}", "subject": message.subject, "text": message.text}


def _costs(
    s3: Any, bucket: str, runs: Sequence[stored_runs.StoredRun], since: datetime
) -> dict[str, RunCost]:
    """Costs from the summaries that were written after ``since``, by run key."""
    costs = {}
    for run in runs:
        if not run.summed_up or run.summed_up < since:
            continue
        key = f"{stored_runs.RUNS}/{run.key}/{SUMMARY}"
        body = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        try:
            costs[run.key] = summary.from_json(body, f"s3://{bucket}/{key}").cost
        except JobError as error:  # the report shows this run without its cost
            log.warning("%s", error)
    return costs


def notify_report(report: Mapping[str, str]) -> None:
    """Send the message about a report; ``report`` is the result of `write_report`."""
    messages.send(lambda _: Message(report["subject"], report["text"]))


def reap() -> list[dict[str, Any]]:
    """Report clusters that no run uses, and terminate them if FRUITS_REAP allows it."""
    deployment = settings.load()
    emr = Aws.of_deployment(deployment).client("emr")
    orphans = reaper.reap(emr, deployment.reap_hours, allowed=deployment.reap)
    if not orphans:
        log.info("every living cluster is in use")
        return []
    messages.send(lambda words: reaper.message(words, orphans, deployment.reap_hours, deployment.region))
    refused = [orphan.cluster.cluster_id for orphan in orphans if orphan.error]
    if refused:
        raise JobError(f"clusters that cost money could not be terminated: {', '.join(refused)}")
    return [
        {
            "cluster_id": orphan.cluster.cluster_id,
            "run_key": orphan.cluster.run_key,
            "reason": orphan.reason,
            "terminated": orphan.terminated,
        }
        for orphan in orphans
    ]
