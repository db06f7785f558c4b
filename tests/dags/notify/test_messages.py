"""Messages about a run, in both languages; no message ever fails a run.

Messages go through the local AWS: from the topic to a queue that has subscribed to it.
"""

from __future__ import annotations

import json
import logging
import string
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from fruit_pipeline import settings
from fruit_pipeline.notify import messages, texts
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.notify.texts import TEXTS, Words
from image_features.contract import LeftOut, RunLayout
from support.local_aws import BUCKET, REGION, LocalAws
from support.mailbox import Mailbox
from support.summaries import run_cost, run_summary

STEP_ERROR = """step s-1 (extract features) is FAILED: JobError; log: s3://b/runs/r1/logs/j-1/steps/s-1/stdout.gz
Traceback (most recent call last):
  File "extract_features.py", line 1
image_features.errors.JobError: cannot read s3://b/runs/r1/sample/shard-00003.parquet"""


def request(run_key: str = "r1") -> dict[str, Any]:
    """A run's request as XCom keeps it: its Params' defaults."""
    from fruit_pipeline.dag import form
    from fruit_pipeline.run import request as requests

    params = {name: param.value for name, param in form.form({"small": "-"}).items()}
    params |= {"source": "/images", "bucket": BUCKET, "run_key": run_key}
    return requests.from_params(params, "manual__1", None).to_dict()


def summary(**changes: Any) -> dict[str, Any]:
    """A run's summary as XCom keeps it."""
    return asdict(run_summary(**changes))


class Instance:
    """What `notify_run_ended` asks of its task instance: the states and XComs of the run's tasks."""

    dag_id, run_id = "fruit_features", "manual__1"

    def __init__(self, states: dict[str, str], xcoms: dict[tuple[str, str], Any]) -> None:
        self._states, self._xcoms = states, xcoms

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        assert (dag_id, run_ids) == (self.dag_id, [self.run_id])
        return {self.run_id: self._states}

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
        return self._xcoms.get((task_ids, key))


FINISHED = Instance(
    {"preflight": "success", "summarise": "success"}, {("summarise", "return_value"): summary()}
)


# Delivery


def test_a_message_reaches_a_mailbox_with_its_accents(mailbox: Mailbox) -> None:
    sent = messages.send(lambda _: Message("Exécution terminée", "à 72,3\u202f%\ndeux lignes"))
    (received,) = mailbox.read()
    assert received["MessageId"] == sent
    assert received["TopicArn"] == mailbox.topic
    assert (received["Subject"], received["Message"]) == ("Exécution terminée", "à 72,3\u202f%\ndeux lignes")


def test_without_a_topic_none_is_sent_and_the_log_says_so(
    deployed: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert messages.send(lambda _: pytest.fail("nothing is composed")) is None
    assert "no message is sent: FRUITS_SNS_TOPIC_ARN is not set" in caplog.text


@pytest.mark.parametrize("trouble", ["no such topic", "no answer", "no connection", "a fault of ours"])
def test_a_message_that_cannot_be_sent_is_a_warning(
    trouble: str, mailbox: Mailbox, deployed: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compose(_: Words) -> Message:
        if trouble == "a fault of ours":
            raise KeyError("images")
        return Message("s", "t")

    if trouble == "no such topic":
        deployed.setenv("FRUITS_SNS_TOPIC_ARN", f"{mailbox.topic}-gone")
    if trouble == "no answer":
        extra = {"region_name": "eu-west-3", "endpoint_url": "http://127.0.0.1:9"}
        text = json.dumps({"conn_type": "aws", "login": "x", "password": "x", "extra": extra})
        deployed.setenv("AIRFLOW_CONN_AWS_NOBODY", text)
        deployed.setenv("FRUITS_AWS_CONN_ID", "aws_nobody")
    if trouble == "no connection":
        deployed.setenv("AIRFLOW_CONN_AWS_BROKEN", "{not json")
        deployed.setenv("FRUITS_AWS_CONN_ID", "aws_broken")
    assert messages.send(compose) is None
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage().startswith("the message was not sent: ")
    assert mailbox.read() == []


def test_a_subject_is_made_to_fit_what_sns_takes(mailbox: Mailbox) -> None:
    messages.send(lambda _: Message("x\n" + "é" * 200, "t"))
    (received,) = mailbox.read()
    assert received["Subject"] == "x " + "é" * 96 + "…"
    assert len(received["Subject"]) < 100


def test_a_text_is_cut_below_snss_limit(mailbox: Mailbox) -> None:
    messages.send(lambda _: Message("s", "😀" * 100_000))
    (received,) = mailbox.read()
    assert len(received["Message"].encode()) <= 262_144
    assert received["Message"].endswith("…")


# Content


def test_the_cluster_is_ready(mailbox: Mailbox) -> None:
    messages.notify_cluster_ready(request(), "j-1")
    (received,) = mailbox.read()
    assert received["Subject"] == "Cluster ready: r1"
    assert "The cluster j-1 of the run r1 is ready" in received["Message"]
    assert (
        "https://eu-west-3.console.aws.amazon.com/emr/home?region=eu-west-3#/clusterDetails/j-1"
        in (received["Message"])
    )


def test_a_finished_run_says_what_came_of_it_and_where_it_lies(mailbox: Mailbox) -> None:
    messages.notify_run_ended(request(), "always", FINISHED)
    (received,) = mailbox.read()
    assert received["Subject"] == "Run finished: r1"
    assert received["Message"] == "\n".join(
        [
            "The run r1 has finished. Every row was checked.",
            "",
            "Images: 10,243 of 131 labels; 10,240 features, 3 rejects (1 empty, 2 truncated)",
            "Embeddings: 50 components keep 71.7% of the variance",
            "Time: 11 min 40 s",
            "Actual cost: about 0.43\u00a0USD",
            "",
            f"Report: https://{REGION}.console.aws.amazon.com/s3/object/{BUCKET}?region={REGION}"
            "&prefix=runs/r1/report.html",
            "Results: s3://fruits/runs/r1/pca",
            f"Summary: s3://{BUCKET}/runs/r1/summary.json",
            "",
            "Airflow: fruit_features, manual__1",
        ]
    )


def test_files_left_out_that_may_be_images_are_counted_in_the_message() -> None:
    left_out = [
        LeftOut("not-drawn", ".jpg", 900, "a/1.jpg"),
        LeftOut("no-decoder", ".heic", 1200, "Pear/1.HEIC"),
        LeftOut("hidden", "", 3, "a/.x"),
    ]
    summary = run_summary(source_files=12_346, left_out=left_out, labels_without_images=["Pear"])
    for language, words in (
        ("en", "Left out of the source: 1,200 files that may be images: 1,200 no-decoder (1,200 .heic)"),
        ("fr", "peut-être des images\xa0: 1\u202f200\xa0; 1,200 no-decoder (1,200 .heic)"),
    ):
        text = messages.finished(Words(language), RunLayout("s3://b/runs/r1"), summary).text
        assert words in text
        assert "'Pear'" in text
        assert "hidden" not in text


def test_the_same_in_french(mailbox: Mailbox, deployed: pytest.MonkeyPatch) -> None:
    deployed.setenv("FRUITS_LANGUAGE", "fr")
    messages.notify_run_ended(request(), "always", FINISHED)
    (received,) = mailbox.read()
    assert received["Subject"] == "Exécution terminée : r1"
    text = received["Message"].replace("\u00a0", " ").replace("\u202f", " ")
    assert "L'exécution r1 est terminée. Chaque ligne a été vérifiée." in text
    assert "Images : 10 243 de 131 étiquettes ; 10 240 vecteurs" in text
    assert "50 composantes conservent 71,7 % de la variance" in text
    assert "Coût réel : environ 0,43 USD" in text
    assert f"Résumé : s3://{BUCKET}/runs/r1/summary.json" in text


def test_random_weights_and_features_taken_over_are_told(mailbox: Mailbox) -> None:
    told = summary(weights_are_random=True, reused=1_200)
    messages.notify_run_ended(
        request(), "always", Instance({"summarise": "success"}, {("summarise", "return_value"): told})
    )
    (received,) = mailbox.read()
    assert "The weights are random: the features mean little." in received["Message"]
    assert "Reused from an earlier run: 1,200 features" in received["Message"]


def test_without_a_cost_in_the_summary_none_is_told(mailbox: Mailbox) -> None:
    told = summary(cost=run_cost(0.5, None))
    messages.notify_run_ended(
        request(), "always", Instance({"summarise": "success"}, {("summarise", "return_value"): told})
    )
    (received,) = mailbox.read()
    assert "Cost" not in received["Message"]


def test_a_failed_run_names_the_task_and_the_steps_last_line(mailbox: Mailbox) -> None:
    states = {
        "preflight": "success",
        "wait_for_extraction": "failed",
        "wait_for_pca": "upstream_failed",
        "summarise": "upstream_failed",
        "terminate_cluster": "success",
    }
    messages.notify_run_ended(
        request(), "always", Instance(states, {("wait_for_extraction", messages.ERROR): STEP_ERROR})
    )
    (received,) = mailbox.read()
    assert received["Subject"] == "Run failed: r1 (wait_for_extraction)"
    text = received["Message"]
    assert "Task: wait_for_extraction\nstep s-1 (extract features) is FAILED" in text
    assert "Last line: image_features.errors.JobError: cannot read s3://b/runs/r1/sample/shard-00003" in text
    assert "Traceback" not in text
    assert "trigger again with run_key set to r1" in text
    assert "MAY STILL BE ALIVE" not in text


def test_a_cluster_that_could_not_be_terminated_is_told_loudly_and_after_the_cause(mailbox: Mailbox) -> None:
    states = {"terminate_cluster": "failed", "check_output": "failed", "summarise": "upstream_failed"}
    messages.notify_run_ended(request(), "always", Instance(states, {}))
    (received,) = mailbox.read()
    assert received["Subject"] == "Run failed: r1 (check_output)"
    assert "THE CLUSTER MAY STILL BE ALIVE" in received["Message"]
    assert received["Message"].count("Its log in Airflow has the reason.") == 2


def test_a_leak_is_told_though_all_else_went_well(mailbox: Mailbox) -> None:
    states = {"summarise": "success", "terminate_cluster": "failed"}
    messages.notify_run_ended(
        request(), "always", Instance(states, {("summarise", "return_value"): summary()})
    )
    (received,) = mailbox.read()
    assert received["Subject"] == "Run failed: r1 (terminate_cluster)"
    assert "THE CLUSTER MAY STILL BE ALIVE" in received["Message"]


def test_a_refused_run_has_no_key_yet_and_is_told_all_the_same(
    mailbox: Mailbox, deployed: pytest.MonkeyPatch
) -> None:
    deployed.setenv("FRUITS_LANGUAGE", "fr")
    ti = Instance(
        {"preflight": "failed", "summarise": "upstream_failed"}, {("preflight", "error"): "no bucket: ..."}
    )
    messages.notify_run_ended(None, "always", ti)
    (received,) = mailbox.read()
    assert received["Subject"] == "Échec de l'exécution : manual__1 (preflight)"
    assert "no bucket: ..." in received["Message"]
    assert "Rien n'a été démarré." in received["Message"]


FAILED = Instance({"preflight": "success", "draw_sample": "failed"}, {("draw_sample", messages.ERROR): "x"})


@pytest.mark.parametrize(
    ("notify", "told"),
    [
        ("always", ["Cluster ready: r1", "Run failed: r1 (draw_sample)", "Run finished: r1"]),
        ("failures", ["Run failed: r1 (draw_sample)"]),
        ("never", []),
    ],
)
def test_a_run_sends_the_messages_that_its_param_allows(
    notify: str, told: list[str], mailbox: Mailbox
) -> None:
    asked = {**request(), "notify": notify}
    messages.notify_cluster_ready(asked, "j-1")
    messages.notify_run_ended(asked, notify, FAILED)
    messages.notify_run_ended(asked, notify, FINISHED)
    assert sorted(message["Subject"] for message in mailbox.read()) == told


@pytest.mark.parametrize(("notify", "told"), [("failures", 1), ("never", 0)])
def test_a_refused_run_sends_the_messages_that_its_param_allows(
    notify: str, told: int, mailbox: Mailbox
) -> None:
    messages.notify_run_ended(
        None, notify, Instance({"preflight": "failed"}, {("preflight", "error"): "no bucket"})
    )
    assert len(mailbox.read()) == told


def test_a_run_that_neither_failed_nor_finished_is_not_told(mailbox: Mailbox) -> None:
    """One that somebody marked as a success by hand."""
    messages.notify_run_ended(
        request(), "always", Instance({"preflight": "success", "summarise": "skipped"}, {})
    )
    assert mailbox.read() == []


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (AirflowFailException("step s-1 is FAILED\nlast"), "step s-1 is FAILED\nlast"),
        (KeyError("images"), "KeyError: 'images'"),
    ],
)
def test_the_error_of_a_task_is_kept_for_the_message(error: Exception, kept: str) -> None:
    pushed: dict[str, str] = {}
    ti = SimpleNamespace(xcom_push=pushed.__setitem__)
    messages.store_error({"ti": ti, "exception": error})
    assert pushed == {messages.ERROR: kept}


def test_an_error_that_cannot_be_kept_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    messages.store_error({"ti": None, "exception": KeyError("images")})
    assert "the error cannot be stored for the message" in caplog.text


# The two languages


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_both_languages_have_every_text_with_the_same_values() -> None:
    assert set(TEXTS) == set(settings.LANGUAGES)
    english, french = TEXTS["en"], TEXTS["fr"]
    assert list(english) == list(french)
    assert {name for name in english if placeholders(english[name]) != placeholders(french[name])} == set()
    same = {name for name in english if english[name] == french[name] and not name.startswith("column.")}
    assert same == set()


def test_every_text_is_used(repo: Path) -> None:
    source = "".join(path.read_text() for path in (repo / "dags").rglob("*.py") if path.name != "texts.py")
    unused = {
        name
        for name in TEXTS["en"]
        if f'"{name}"' not in source and f'"{name.removeprefix("column.")}"' not in source
    }
    assert unused == set()


def test_numbers_are_written_as_each_language_writes_them() -> None:
    english, french = Words("en"), Words("fr")
    assert (english.number(1234567.891, 2), french.number(1234567.891, 2)) == (
        "1,234,567.89",
        "1\u202f234\u202f567,89",
    )
    assert (english.percent(0.7165), french.percent(0.7165)) == ("71.7%", "71,7\u00a0%")
    assert [english.size(n) for n in (0, 999, 1000, 1_500_000, 2e15)] == [
        "0\u00a0B",
        "999\u00a0B",
        "1.0\u00a0kB",
        "1.5\u00a0MB",
        "2,000.0\u00a0TB",
    ]
    assert french.size(1_500_000) == "1,5\u00a0Mo"
    spans = [8, 59.6, 125, 3600 * 3 + 300, 3600 * 52]
    assert [english.duration(s) for s in spans] == [
        "8 s",
        "1 min 00 s",
        "2 min 05 s",
        "3 h 05 min",
        "2 d 4 h",
    ]
    assert french.duration(3600 * 52) == "2 j 4 h"


def test_moments_are_told_in_the_deployments_time_zone() -> None:
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    moment = datetime(2026, 7, 1, 22, 30, tzinfo=UTC)
    assert Words("en").moment(moment) == "2026-07-01 22:30 UTC"
    assert Words("fr", ZoneInfo("Europe/Paris")).moment(moment) == "02/07/2026 à 00:30 CEST"


def test_high_punctuation_does_not_begin_a_line_and_commands_stay_as_they_are() -> None:
    text = Words("fr")("reaper.command", command="a ; b : c")
    assert text == "Pour les arrêter\u00a0: a ; b : c"
    assert texts.TEXTS["fr"]["reaper.command"].startswith("Pour les arrêter :")
    assert not any(
        " :" in Words("fr")(name, **dict.fromkeys(placeholders(t), "x")) for name, t in TEXTS["fr"].items()
    )


def test_the_local_aws_speaks_sns(local_aws: LocalAws, mailbox: Mailbox) -> None:
    """What the tests above stand on: a topic that delivers."""
    subscriptions = local_aws.client("sns").list_subscriptions_by_topic(TopicArn=mailbox.topic)
    assert [entry["Protocol"] for entry in subscriptions["Subscriptions"]] == ["sqs"]
