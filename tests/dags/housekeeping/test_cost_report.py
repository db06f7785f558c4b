"""The weekly report: what was billed, by run, day and service, and what lies around.

moto's Cost Explorer gives back what it was told to, whatever is asked; that the request is the one
that AWS documents is held against botocore's own model of it.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from fruit_pipeline import settings
from fruit_pipeline.aws.clusters import RUN_TAG, name_of
from fruit_pipeline.cost import bill
from fruit_pipeline.cost.bill import Bill
from fruit_pipeline.housekeeping import cost_page, stored_runs, tasks
from fruit_pipeline.housekeeping.cost_page import Facts
from fruit_pipeline.housekeeping.reaper import LivingCluster
from fruit_pipeline.notify.texts import Words
from fruit_pipeline.run.summary import to_json
from image_features.errors import JobError
from support.local_aws import BUCKET, LocalAws
from support.mailbox import Mailbox
from support.summaries import run_cost, run_summary
from support.waiting import eventually

EMR, EC2 = "Amazon Elastic MapReduce", "Amazon Elastic Compute Cloud - Compute"
TODAY = date(2026, 11, 23)
NOTHING = "\N{EN DASH}"


def group(run: str, service: str, amount: str, unit: str = "USD") -> dict[str, Any]:
    """A group as Cost Explorer gives it: the tag's key and value, joined by a dollar sign."""
    return {
        "Keys": [f"{RUN_TAG}${run}", service],
        "Metrics": {"UnblendedCost": {"Amount": amount, "Unit": unit}},
    }


def day(start: str, *groups: dict[str, Any], estimated: bool = False) -> dict[str, Any]:
    end = (date.fromisoformat(start) + timedelta(days=1)).isoformat()
    period = {"Start": start, "End": end}
    return {"TimePeriod": period, "Total": {}, "Groups": list(groups), "Estimated": estimated}


WEEK = [
    day("2026-11-10", group("r1", EMR, "0.1"), group("r1", EC2, "0.2")),
    day("2026-11-20", group("r1", EMR, "0.01"), group("r2", EMR, "0.3"), group("r2", EC2, "0.7")),
    day("2026-11-21"),
    day("2026-11-22", group("", EC2, "0.0500000001"), estimated=True),
]


def request(**more: Any) -> dict[str, Any]:
    return {
        "TimePeriod": {"Start": "2026-10-26", "End": "2026-11-23"},
        "Granularity": "DAILY",
        "Metrics": ["UnblendedCost"],
        "GroupBy": [{"Type": "TAG", "Key": "image-features-run"}, {"Type": "DIMENSION", "Key": "SERVICE"}],
        "Filter": {"Not": {"Tags": {"Key": "image-features-run", "MatchOptions": ["ABSENT"]}}},
        **more,
    }


@pytest.fixture
def ce() -> Any:
    return boto3.client("ce", "eu-west-3", aws_access_key_id="x", aws_secret_access_key="x")


@pytest.fixture
def stubber(ce: Any) -> Iterator[Stubber]:
    with Stubber(ce) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


# The bill


def test_one_request_gives_the_bill_by_run_by_day_and_by_service(ce: Any, stubber: Stubber) -> None:
    stubber.add_response("get_cost_and_usage", {"ResultsByTime": WEEK}, request())
    found = bill.fetch(ce, TODAY, 28)
    assert (found.start, found.end, found.unit, found.problem) == ("2026-10-26", "2026-11-23", "USD", "")
    assert found.by_run == {"r2": 1.0, "r1": 0.31, "": 0.05}
    assert found.by_day == {
        "2026-11-10": 0.3,
        "2026-11-20": 1.01,
        "2026-11-21": 0.0,
        "2026-11-22": 0.05,
    }
    assert found.by_service == {EC2: 0.95, EMR: 0.41}
    assert found.total == pytest.approx(1.36)
    assert found.last_week == pytest.approx(1.06), "the seven days before the end, which is not part of it"
    assert found.estimated


def test_the_end_is_not_part_of_the_bill_and_the_start_is(ce: Any, stubber: Stubber) -> None:
    period = {"Start": "2026-11-16", "End": "2026-11-23"}
    stubber.add_response("get_cost_and_usage", {"ResultsByTime": []}, request(TimePeriod=period))
    assert bill.fetch(ce, TODAY, 7).by_day == {}


def test_further_pages_are_requested_and_added(ce: Any, stubber: Stubber) -> None:
    pages = [
        {"ResultsByTime": [day("2026-11-20", group("r1", EMR, "1"))], "NextPageToken": "two"},
        {"ResultsByTime": [day("2026-11-20", group("r1", EC2, "2"))], "NextPageToken": "three"},
        {"ResultsByTime": [day("2026-11-21", group("r2", EC2, "4"))]},
    ]
    stubber.add_response("get_cost_and_usage", pages[0], request())
    stubber.add_response("get_cost_and_usage", pages[1], request(NextPageToken="two"))
    stubber.add_response("get_cost_and_usage", pages[2], request(NextPageToken="three"))
    found = bill.fetch(ce, TODAY, 28)
    assert found.by_run == {"r2": 4.0, "r1": 3.0}
    assert found.by_day == {"2026-11-20": 3.0, "2026-11-21": 4.0}
    assert not found.estimated


def test_cents_are_summed_without_binary_rounding(ce: Any, stubber: Stubber) -> None:
    tenths = [group(f"r{n}", EMR, "0.1") for n in range(10)]
    stubber.add_response("get_cost_and_usage", {"ResultsByTime": [day("2026-11-20", *tenths)]}, request())
    assert bill.fetch(ce, TODAY, 28).by_service == {EMR: 1.0}


@pytest.mark.parametrize("code", ["AccessDeniedException", "DataUnavailableException"])
def test_a_refusal_is_the_bills_problem_not_the_reports(ce: Any, stubber: Stubber, code: str) -> None:
    stubber.add_client_error("get_cost_and_usage", code, "not today", expected_params=request())
    found = bill.fetch(ce, TODAY, 28)
    assert code in found.problem
    assert found.total == 0


def test_several_currencies_are_not_added_up(ce: Any, stubber: Stubber) -> None:
    groups = [group("r1", EMR, "1"), group("r2", EMR, "1", unit="EUR")]
    stubber.add_response("get_cost_and_usage", {"ResultsByTime": [day("2026-11-20", *groups)]}, request())
    assert bill.fetch(ce, TODAY, 28).problem == "amounts in several units: EUR, USD"


def test_cost_explorer_is_called_in_its_own_region() -> None:
    client = boto3.client("ce", "eu-west-3", aws_access_key_id="x", aws_secret_access_key="x")
    assert client.meta.endpoint_url == "https://ce.us-east-1.amazonaws.com"


# The page


class Page(HTMLParser):
    """Text of each table by the heading above it, and what a page must not have."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self.foreign: list[str] = []
        self._heading, self._open, self._stack = "", "", []
        self.feed(html)
        self.close()
        assert self._stack == [], "an element is not closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link", "iframe", "a"):
            self.foreign.append(tag)
        if tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
        if tag != "meta":
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\u00a0", " ").replace("\u202f", " ")
        if self._stack and self._stack[-1] == "h2":
            self._heading = data
        elif self._stack and self._stack[-1] in ("td", "th"):
            self.tables[self._heading][-1][-1] += data
        elif self._stack and self._stack[-1] != "style":
            self.text.append(data.strip())


@pytest.fixture
def facts() -> Facts:
    made = datetime(2026, 11, 23, 6, 0, tzinfo=UTC)
    nasty = "<script>alert('r')</script>"
    unfinished = stored_runs.StoredRun(
        "half & half", objects=12, bytes=3_400_000, last=made - timedelta(days=9)
    )
    return Facts(
        time=made,
        bill=Bill(
            "2026-10-26",
            "2026-11-23",
            by_day={"2026-11-20": 1.5, "2026-11-21": 0.75},
            by_run={"r1": 2.0, nasty: 0.25, "": 0.0},
            by_service={EMR: 0.5, EC2: 1.75},
            estimated=True,
        ),
        costs={"r1": run_cost(1.6, 1.8), "r3": run_cost(0.3, 0.4), "r4": run_cost(0.2, None)},
        clusters=[LivingCluster("j-1", nasty, "WAITING", made - timedelta(hours=30), False)],
        unfinished=[unfinished],
        uploads=[stored_runs.Upload("runs/x/<b>.parquet", made - timedelta(days=8), 5_000_000)],
        cleaned=[{"run": "s3://b/runs/old", "objects": 1_200, "bytes": 2_500_000_000}],
    )


def test_the_page_shows_each_run_with_its_actual_cost_and_its_estimate(facts: Facts) -> None:
    tables = Page(cost_page.page(Words("en"), facts)).tables
    assert tables["Bill by run"] == [
        ["Run", "Bill", "Actual cost", "Difference", "Estimate"],
        ["r1", "2.00 USD", "1.80 USD", "0.20 USD", "1.60 USD"],
        ["<script>alert('r')</script>", "0.25 USD", NOTHING, NOTHING, NOTHING],
        ["(without a key)", "0.00 USD", NOTHING, NOTHING, NOTHING],
        ["r3", NOTHING, "0.40 USD", NOTHING, "0.30 USD"],
        ["r4", NOTHING, NOTHING, NOTHING, "0.20 USD"],
    ]
    assert tables["Bill by day"] == [
        ["Day", "Bill", ""],
        ["2026-11-20", "1.50 USD", ""],
        ["2026-11-21", "0.75 USD", ""],
    ]
    assert tables["Bill by service"][1:] == [[EMR, "0.50 USD"], [EC2, "1.75 USD"]]


def test_the_page_shows_living_clusters_unfinished_runs_and_what_was_cleaned(facts: Facts) -> None:
    tables = Page(cost_page.page(Words("en"), facts)).tables
    assert tables["Clusters running now"][1] == ["j-1", "<script>alert('r')</script>", "WAITING", "1 d 6 h"]
    assert tables["Unfinished runs"][1] == ["half & half", "12", "3.4 MB", "2026-11-14 06:00 UTC"]
    assert tables["Incomplete uploads"][1] == ["runs/x/<b>.parquet", "5.0 MB", "2026-11-15 06:00 UTC"]
    assert tables["Deleted"][1] == ["s3://b/runs/old", "1,200", "2.5 GB"]


def test_the_page_is_self_contained_and_escapes_its_values(facts: Facts) -> None:
    html = cost_page.page(Words("en"), facts)
    assert Page(html).foreign == []
    assert "http://" not in html
    assert "https://" not in html
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#39;r&#39;)&lt;/script&gt;" in html
    assert "default-src 'none'" in html


def test_the_page_in_french(facts: Facts) -> None:
    html = cost_page.page(Words("fr"), facts)
    assert '<html lang="fr">' in html
    page = Page(html)
    assert page.tables["Facture par exécution"][:2] == [
        ["Exécution", "Facture", "Coût réel", "Écart", "Estimation"],
        ["r1", "2,00 USD", "1,80 USD", "0,20 USD", "1,60 USD"],
    ]
    assert "Facturé en 2 jours : 2,25 USD" in page.text
    assert "AWS n'a pas clos tous ces jours : les montants des derniers peuvent augmenter." in page.text
    assert page.tables["Supprimé"][1] == ["s3://b/runs/old", "1 200", "2,5 Go"]
    english = set(re.findall(r"\b(?:the|runs?|without|alive|cost)\b", " ".join(page.text)))
    assert english <= {"run"}, "only the command's own words"


def test_a_page_with_nothing_on_it_says_so_and_how_to_get_a_bill() -> None:
    facts = Facts(time=datetime(2026, 11, 23, tzinfo=UTC), bill=Bill("2026-11-16", "2026-11-23"))
    page = Page(cost_page.page(Words("en"), facts))
    assert page.tables == {}
    assert any("activated as a cost allocation tag" in text for text in page.text)
    assert page.text.count("None.") == 7


def test_amounts_below_zero_are_shown_and_have_no_bar() -> None:
    """Credits."""
    found = Bill("2026-11-16", "2026-11-23", by_day={"2026-11-20": -1.0}, by_run={"r": -1.0})
    html = cost_page.page(Words("en"), Facts(time=datetime(2026, 11, 23, tzinfo=UTC), bill=found))
    assert "-1.00" in html
    assert '<rect width="0.0"' in html


def test_the_message_has_the_sums_the_most_expensive_runs_and_the_place(facts: Facts) -> None:
    message = cost_page.message(Words("en"), facts, "s3://b/reports/cost.html")
    assert message.subject.replace("\u00a0", " ") == "Cost report 2026-11-23: 2.25 USD"
    lines = message.text.replace("\u00a0", " ").splitlines()
    assert lines[:3] == [
        "Billed in 2 days: 2.25 USD",
        "Billed in the last 7 days: 2.25 USD",
        "AWS has not closed all of these days: the amounts of the last ones may grow.",
    ]
    assert "- r1: 2.00 USD" in lines
    assert "Clusters running now: 1" in lines
    assert "- j-1 (<script>alert('r')</script>): 1 d 6 h" in lines
    assert "Unfinished runs: 1; incomplete uploads: 1" in lines
    assert "Deleted: 2.5 GB; runs: 1" in lines
    assert lines[-1] == "Page: s3://b/reports/cost.html"


def test_a_message_without_a_bill_says_why(facts: Facts) -> None:
    broken = Facts(time=facts.time, bill=Bill("2026-10-26", "2026-11-23", problem="AccessDenied: ce:Get"))
    message = cost_page.message(Words("fr"), broken, "s3://b/p.html")
    assert message.subject == "Rapport des coûts du 23/11/2026\u00a0: pas de facture"
    assert "Il n'y a pas de facture\u00a0: AccessDenied: ce:Get" in message.text


# The whole, on the local AWS


@pytest.fixture
def billed(local_aws: LocalAws) -> Callable[[list[dict[str, Any]]], None]:
    """Tells moto what its Cost Explorer answers next."""

    def tell(days: list[dict[str, Any]]) -> None:
        body = json.dumps({"results": [{"ResultsByTime": days, "GroupDefinitions": []}]}).encode()
        url = f"{local_aws.endpoint}/moto-api/static/ce/cost-and-usage-results"
        headers = {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:
            assert answer.status == 201

    return tell


@pytest.fixture
def full_bucket(clusters: LocalAws) -> Iterator[LocalAws]:
    """Two finished runs, one that is not, and an incomplete upload."""
    clusters.terminate_all()
    eventually(lambda: clusters.alive() == [])
    for key in clusters.keys("runs"):
        clusters.s3.delete_object(Bucket=BUCKET, Key=f"runs/{key}")
    for name, body in {
        "r1/sample/shard-00000.parquet": "x" * 100,
        "r1/pca/model.npz": "x" * 30,
        "r1/summary.json": to_json(run_summary(cost=run_cost(0.3, 0.42))).decode(),
        "r2/summary.json": "{}",
        "r4/summary.json": "no JSON",
        "half/sample/shard-00000.parquet": "x" * 1000,
    }.items():
        clusters.put(f"runs/{name}", body)
    upload = clusters.s3.create_multipart_upload(Bucket=BUCKET, Key="runs/half/sample/big")
    clusters.s3.upload_part(
        Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 6_000_000
    )
    yield clusters
    clusters.s3.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])


def test_incomplete_uploads_are_found_with_their_bytes(full_bucket: LocalAws) -> None:
    (upload,) = stored_runs.abandoned_uploads(full_bucket.s3, BUCKET, datetime.now(UTC))
    assert (upload.key, upload.bytes) == ("runs/half/sample/big", 6_000_000)
    assert stored_runs.abandoned_uploads(full_bucket.s3, BUCKET, upload.started) == []


def test_the_report_is_a_page_in_the_bucket_and_a_message(
    full_bucket: LocalAws,
    billed: Callable[[list[dict[str, Any]]], None],
    mailbox: Mailbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster_id = full_bucket.run(name=name_of("r9"), tags={RUN_TAG: "r9"})
    monkeypatch.setattr(tasks, "ABANDONED_DAYS", 0)
    yesterday = (datetime.now(UTC).date() - timedelta(days=1)).isoformat()
    # moto answers by the request's text: a number of days of its own for each test.
    billed([day(yesterday, group("r1", EMR, "0.5"), group("r2", EC2, "1.5"))])
    before = f"s3://{BUCKET}/reports/cost-{datetime.now(UTC):%Y-%m-%d}.html"
    report = tasks.write_report(28, [{"run": "s3://b/runs/old", "objects": 3, "bytes": 4_000}])
    assert before <= report["page"] <= f"s3://{BUCKET}/reports/cost-{datetime.now(UTC):%Y-%m-%d}.html"
    stored = full_bucket.s3.get_object(Bucket=BUCKET, Key=report["page"].removeprefix(f"s3://{BUCKET}/"))
    assert stored["ContentType"] == "text/html; charset=utf-8"
    page = Page(stored["Body"].read().decode())
    assert page.tables["Bill by run"][1:] == [
        ["r2", "1.50 USD", NOTHING, NOTHING, NOTHING],
        ["r1", "0.50 USD", "0.42 USD", "0.08 USD", "0.30 USD"],
    ]
    assert page.tables["Clusters running now"][1][:2] == [cluster_id, "r9"]
    assert [row[0] for row in page.tables["Unfinished runs"][1:]] == ["half"]
    assert [row[:2] for row in page.tables["Incomplete uploads"][1:]] == [["runs/half/sample/big", "6.0 MB"]]
    assert page.tables["Deleted"][1] == ["s3://b/runs/old", "3", "4.0 kB"]

    tasks.notify_report(report)
    (received,) = mailbox.read()
    assert received["Subject"].endswith(": 2.00 USD")
    assert report["page"] in received["Message"]


def test_without_the_right_to_ask_for_the_bill_the_rest_is_reported(
    full_bucket: LocalAws, deployed: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Bill("2026-11-16", "2026-11-23", problem="AccessDeniedException: ce:GetCostAndUsage")
    monkeypatch.setattr(bill, "fetch", lambda *_: problem)
    report = tasks.write_report(7, [])
    assert report["subject"].endswith(": no bill")
    assert "There is no bill: AccessDeniedException" in report["text"]
    assert full_bucket.keys("reports")


def test_the_weekly_clean_up_takes_what_its_days_have_passed(
    full_bucket: LocalAws, deployed: pytest.MonkeyPatch
) -> None:
    assert tasks.clean_up() == [], "nothing is a day old"
    assert "r1/sample/shard-00000.parquet" in full_bucket.keys("runs")


@pytest.mark.parametrize("work", [tasks.clean_up, lambda: tasks.write_report(7, [])])
def test_without_a_bucket_it_is_refused_with_the_variable(
    work: Callable[[], Any], deployed: pytest.MonkeyPatch
) -> None:
    deployed.delenv("FRUITS_BUCKET")
    with pytest.raises(JobError, match="set FRUITS_BUCKET"):
        work()


def test_the_days_of_the_form_are_those_that_cost_explorer_has() -> None:
    assert 7 <= bill.MAX_DAYS <= 14 * 30
    assert settings.load({}).retention_days > tasks.ABANDONED_DAYS
