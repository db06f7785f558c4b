"""The cost report: one self-contained HTML page, and a message with its main figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fruit_pipeline import pages
from fruit_pipeline.aws.clusters import RUN_TAG
from fruit_pipeline.cost.bill import Bill
from fruit_pipeline.housekeeping.reaper import LivingCluster
from fruit_pipeline.housekeeping.stored_runs import StoredRun, Upload
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.notify.texts import Words
from image_features.contract import RunCost

_NOTHING = "\N{EN DASH}"
_LARGEST_IN_MESSAGE = 5


@dataclass(frozen=True)
class Facts:
    """The content of a report. ``costs`` is by run key, ``cleaned`` holds results of `Cleaning.figures`."""

    time: datetime
    bill: Bill
    costs: Mapping[str, RunCost] = field(default_factory=dict)
    clusters: Sequence[LivingCluster] = ()
    unfinished: Sequence[StoredRun] = ()
    uploads: Sequence[Upload] = ()
    cleaned: Sequence[Mapping[str, Any]] = ()
    abandoned_days: int = 7
    retention_days: int = 30


@dataclass(frozen=True)
class _Bar:
    """A cell that shows a share between 0 and 1 as a bar."""

    share: float


@dataclass(frozen=True)
class _Table:
    """A table with a heading; its first column is text."""

    heading: str
    names: Sequence[str]
    rows: Sequence[Sequence[str | _Bar]]
    note: str = ""
    command: str = ""


def message(words: Words, facts: Facts, page: str) -> Message:
    """The report in a few lines; ``page`` is the URI of the whole page."""
    bill, date = facts.bill, words.day(facts.time)
    lines = _bill_lines(words, bill)
    for run, amount in list(bill.by_run.items())[:_LARGEST_IN_MESSAGE]:
        name = run or words("report.untagged")
        lines.append(words("report.line", name=name, value=words.money(amount, bill.unit)))
    lines.append(words("report.alive", count=words.number(len(facts.clusters))))
    for cluster in facts.clusters:
        age = words.duration(cluster.age(facts.time).total_seconds())
        name = f"{cluster.cluster_id} ({cluster.run_key})"
        lines.append(words("report.line", name=name, value=age))
    runs, uploads = words.number(len(facts.unfinished)), words.number(len(facts.uploads))
    lines.append(words("report.forgotten", runs=runs, uploads=uploads))
    lines.append(_cleaned_line(words, facts))
    lines += ["", words("report.page", page=page)]
    if bill.problem:
        subject = words("report.subject.no_bill", date=date)
    else:
        subject = words("report.subject", date=date, total=words.money(bill.total, bill.unit))
    return Message(subject, "\n".join(lines))


def page(words: Words, facts: Facts) -> str:
    """The whole report as HTML; every value in it is escaped."""
    return pages.render(
        "cost.html",
        language=words.language,
        title=words("report.title", date=words.day(facts.time)),
        lines=[
            words("report.period", start=facts.bill.start, end=facts.bill.end, tag=RUN_TAG),
            *_bill_lines(words, facts.bill),
            _cleaned_line(words, facts),
        ],
        tables=[
            *_bill_tables(words, facts),
            _clusters(words, facts),
            _unfinished(words, facts),
            _uploads(words, facts),
            _cleaned(words, facts),
        ],
        nothing=words("report.none"),
        footer=words("report.footer"),
    )


def _bill_lines(words: Words, bill: Bill) -> list[str]:
    if bill.problem:
        return [words("report.problem", problem=bill.problem)]
    if not bill.by_run:
        return [words("report.empty")]
    lines = [
        words("report.total", days=len(bill.by_day), total=words.money(bill.total, bill.unit)),
        words("report.week", total=words.money(bill.last_week, bill.unit)),
    ]
    return [*lines, words("report.estimated")] if bill.estimated else lines


def _cleaned_line(words: Words, facts: Facts) -> str:
    size = sum(cleaning["bytes"] for cleaning in facts.cleaned)
    return words("report.cleaned", size=words.size(size), runs=words.number(len(facts.cleaned)))


def _bill_tables(words: Words, facts: Facts) -> list[_Table]:
    bill = facts.bill

    def billed(amount: float | None) -> str:
        return _NOTHING if amount is None else words.money(amount, bill.unit)

    def usd(amount: float | None) -> str:
        return _NOTHING if amount is None else words.money(amount)

    largest = max(bill.by_day.values(), default=0)
    days = [
        (day, billed(amount), _Bar(max(amount, 0) / largest if largest > 0 else 0))
        for day, amount in bill.by_day.items()
    ]
    runs = []
    for run in [*bill.by_run, *sorted(set(facts.costs) - set(bill.by_run))]:
        amount, cost = bill.by_run.get(run), facts.costs.get(run)
        estimated = cost.estimate.expected.total_usd if cost else None
        actual = cost.actual.total_usd if cost and cost.actual else None
        difference = None
        if amount is not None and actual is not None and bill.unit == "USD":
            difference = amount - actual
        name = run or words("report.untagged")
        runs.append((name, billed(amount), usd(actual), usd(difference), usd(estimated)))
    services = [(service, billed(amount)) for service, amount in bill.by_service.items()]
    names = [words(f"column.{name}") for name in ("run", "bill", "actual", "difference", "estimate")]
    return [
        _Table(words("report.by_run"), names, runs),
        _Table(words("report.by_day"), [words("column.day"), words("column.bill"), ""], days),
        _Table(words("report.by_service"), [words("column.service"), words("column.bill")], services),
    ]


def _clusters(words: Words, facts: Facts) -> _Table:
    rows = [
        (
            cluster.cluster_id,
            cluster.run_key,
            cluster.state,
            words.duration(cluster.age(facts.time).total_seconds()),
        )
        for cluster in facts.clusters
    ]
    names = [words(f"column.{name}") for name in ("cluster", "run", "state", "age")]
    return _Table(words("report.clusters"), names, rows)


def _unfinished(words: Words, facts: Facts) -> _Table:
    rows = [
        (
            run.key,
            words.number(run.objects),
            words.size(run.bytes),
            words.moment(run.last) if run.last else "",
        )
        for run in facts.unfinished
    ]
    names = [words(f"column.{name}") for name in ("run", "objects", "size", "last")]
    note = words("report.unfinished.note", days=facts.abandoned_days) if rows else ""
    command = "python -m fruit_pipeline clean --everything --run <key>" if rows else ""
    return _Table(words("report.unfinished"), names, rows, note, command)


def _uploads(words: Words, facts: Facts) -> _Table:
    rows = [(upload.key, words.size(upload.bytes), words.moment(upload.started)) for upload in facts.uploads]
    names = [words(f"column.{name}") for name in ("object", "size", "started")]
    note = words("report.uploads.note", days=facts.abandoned_days) if rows else ""
    return _Table(words("report.uploads"), names, rows, note)


def _cleaned(words: Words, facts: Facts) -> _Table:
    rows = [
        (cleaning["run"], words.number(cleaning["objects"]), words.size(cleaning["bytes"]))
        for cleaning in facts.cleaned
    ]
    names = [words(f"column.{name}") for name in ("run", "objects", "size")]
    note = words("report.cleaned.note", days=facts.retention_days)
    return _Table(words("report.cleaned.heading"), names, rows, note)
