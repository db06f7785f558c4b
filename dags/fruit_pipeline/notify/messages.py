"""Messages to an SNS topic: the cluster is ready, the run has finished, the run has failed.

A message that cannot be sent is a warning in the log; it never fails a run. Without
`FRUITS_SNS_TOPIC_ARN`, none is sent, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.console_urls import browser_url, cluster_console_url
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.notify.texts import Words
from fruit_pipeline.run.request import RunRequest
from fruit_pipeline.run.summary import from_values
from fruit_pipeline.sample import left_out
from fruit_pipeline.settings import Settings
from image_features.contract import SUMMARY, RunLayout, RunSummary
from image_features.storage import join_uri

log = logging.getLogger(__name__)

ERROR = "error"
"""Key of the XCom that holds the error of a failed task."""

# https://docs.aws.amazon.com/sns/latest/api/API_Publish.html: less than 100 characters, no control
# characters; 262,144 bytes of text, of which a character takes up to four.
_SUBJECT_CHARACTERS = 99
_TEXT_CHARACTERS = 60_000

_ERROR_CHARACTERS = 4_000
_TEARDOWN = "terminate_cluster"
_REPORT = "make_report"
_RETRIES = {"mode": "standard", "total_max_attempts": 3}


@dataclass(frozen=True)
class Message:
    """An e-mail, as SNS sends it to a mailbox."""

    subject: str
    text: str


def words_of(deployment: Settings) -> Words:
    return Words(deployment.language, deployment.time_zone)


def send(compose: Callable[[Words], Message | None]) -> str | None:
    """Compose and send a message. Returns its id, or None when none was sent. Raises nothing."""
    try:
        deployment = settings.load()
        topic = deployment.sns_topic_arn
        if not topic:
            log.info("no message is sent: FRUITS_SNS_TOPIC_ARN is not set")
            return None
        message = compose(words_of(deployment))
        if message is None:
            log.info("no message is sent: this run's end needs none")
            return None
        aws = Aws.from_connection(deployment.aws_conn_id, topic.split(":")[3])
        sns = aws.client("sns", retries=_RETRIES, connect_timeout=5, read_timeout=10)
        sent = sns.publish(
            TopicArn=topic, Subject=_subject(message.subject), Message=_cut(message.text, _TEXT_CHARACTERS)
        )["MessageId"]
    except Exception as error:  # of any kind: a message must not fail a run
        log.warning("the message was not sent: %s: %s", type(error).__name__, error)
        return None
    log.info("message %s sent to %s: %s", sent, topic, message.subject)
    return sent


def _subject(text: str) -> str:
    return _cut("".join(sign if sign.isprintable() else " " for sign in text), _SUBJECT_CHARACTERS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


# Composition


def ready(words: Words, run_key: str, cluster_id: str, region: str) -> Message:
    """The cluster accepts steps."""
    lines = [
        words("ready.text", cluster_id=cluster_id, run_key=run_key),
        words("console", url=cluster_console_url(cluster_id, region)),
    ]
    return Message(words("ready.subject", run_key=run_key), "\n\n".join(lines))


def finished(words: Words, layout: RunLayout, summary: RunSummary) -> Message:
    """The results of a run that has finished."""
    reasons = ", ".join(f"{words.number(n)} {why}" for why, n in summary.rejects_by_reason.items())
    lines = [
        words("finished.text", run_key=summary.run_key),
        "",
        words(
            "finished.images",
            images=words.number(summary.images),
            labels=words.number(summary.labels),
            features=words.number(summary.features),
            rejects=words.number(summary.rejects),
        )
        + (f" ({reasons})" if reasons else ""),
    ]
    if lost := [row for row in summary.left_out if row.is_loss]:
        files = words.number(sum(row.files for row in lost))
        lines.append(words("finished.left_out", files=files, kinds=left_out.text(lost)))
    if summary.labels_without_images:
        lines.append(words("finished.lost_labels", labels=left_out.names(summary.labels_without_images)))
    if summary.reused:
        lines.append(words("finished.reused", reused=words.number(summary.reused)))
    lines.append(
        words(
            "finished.embeddings",
            components=summary.components,
            variance=words.percent(summary.variance_kept),
        )
    )
    if summary.weights_are_random:
        lines.append(words("finished.random"))
    lines.append(words("finished.time", duration=words.duration(sum(summary.seconds.values()))))
    if actual := summary.cost.actual:
        lines.append(words("finished.cost", cost=words.money(actual.total_usd)))
    places = {
        "embeddings": summary.places.embeddings,
        "summary": join_uri(layout.root, SUMMARY),
    }
    report = browser_url(layout.report)
    lines += ["", words("finished.report", report=report), words("finished.places", **places)]
    return Message(words("finished.subject", run_key=summary.run_key), "\n".join(lines))


def failed(
    words: Words, name: str, errors: Mapping[str, str | None], *, refused: bool, leak: bool
) -> Message:
    """The failed tasks of a run with their errors.

    ``name``: the run's key, or Airflow's run id when there is no key yet. ``errors``: the error of each
    failed task, None where it is not known. ``refused``: the run was refused before it started anything.
    ``leak``: the cluster could not be terminated.
    """
    lines = [words("failed.text", run_key=name)]
    for task, error in errors.items():
        lines += ["", words("failed.task", task=task), *_error_lines(words, error)]
    if leak:
        lines += ["", words("failed.leak")]
    task = next(iter(errors))
    if set(errors) - {_TEARDOWN} == {_REPORT}:
        lines += ["", words("failed.report")]
    else:
        lines += ["", words("failed.refused") if refused else words("failed.resume", run_key=name)]
    return Message(words("failed.subject", run_key=name, task=task), "\n".join(lines))


def _error_lines(words: Words, error: str | None) -> list[str]:
    """The first and the last line of an error. The error of a step ends with the end of the step's log."""
    lines = [line.rstrip() for line in (error or "").splitlines() if line.strip()]
    if not lines:
        return [words("failed.unknown")]
    selected = [_cut(lines[0], _ERROR_CHARACTERS)]
    if len(lines) > 1:
        selected.append(words("failed.last_line", line=_cut(lines[-1], _ERROR_CHARACTERS)))
    return selected


# Called by the tasks of the DAGs


def notify_cluster_ready(values: Mapping[str, Any], cluster_id: str) -> None:
    """Send the message that the run's cluster is ready, if the run's ``notify`` allows it.

    ``values`` is the run's request.
    """
    if values["notify"] != "always":
        log.info("no message is sent: this run's notify is %s", values["notify"])
        return
    send(lambda words: ready(words, values["run_key"], cluster_id, settings.load().region))


def notify_run_ended(values: Mapping[str, Any] | None, notify: str, ti: Any) -> None:
    """Send the message that the run has finished or failed, if ``notify`` (a Param) allows it.

    ``values``: the run's request, None when it was refused. ``ti``: the instance of the calling task, which
    runs after all others.
    """
    if notify == "never":
        log.info("no message is sent: this run's notify is never")
        return

    def compose(words: Words) -> Message | None:
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
        failures = sorted((task for task, state in states.items() if state == "failed"), key=_TEARDOWN.__eq__)
        if failures:
            errors = {task: ti.xcom_pull(task_ids=task, key=ERROR) for task in failures}
            name = values["run_key"] if values else ti.run_id
            message = failed(words, name, errors, refused=values is None, leak=_TEARDOWN in failures)
        elif notify == "failures":
            return None
        elif values and states.get("summarise") == "success":
            summary = from_values(ti.xcom_pull(task_ids="summarise"))
            message = finished(words, RunRequest.from_dict(values).layout, summary)
        else:  # for example, somebody marked tasks as successful by hand
            return None
        where = words("airflow", dag_id=ti.dag_id, run_id=ti.run_id)
        return Message(message.subject, f"{message.text}\n\n{where}")

    send(compose)


def store_error(context: Any) -> None:
    """``on_failure_callback`` of every task: stores its error as an XCom, for the message.

    It runs in the task's own process. If that process was killed, Airflow calls it in another one, where
    XComs cannot be stored: the message then names only the task.
    """
    error = context.get("exception")
    text = str(error)
    if not type(error).__name__.startswith("Airflow"):
        text = f"{type(error).__name__}: {text}"
    try:
        context["ti"].xcom_push(ERROR, text)
    except Exception as trouble:  # must not replace the task's own failure
        log.warning("the error cannot be stored for the message: %s", trouble)
