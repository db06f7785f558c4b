"""The cost report as one HTML page without a script or a link to elsewhere, and as a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any

from fruit_pipeline.bill import Bill, RunCost
from fruit_pipeline.cluster import RUN_TAG
from fruit_pipeline.messages import Message
from fruit_pipeline.reaper import Living
from fruit_pipeline.stock import StoredRun, Upload
from fruit_pipeline.words import Words

_NOTHING = "\N{EN DASH}"
_LARGEST_IN_MESSAGE = 5


@dataclass(frozen=True)
class Facts:
    """What a report tells. ``costs`` are by run key, ``cleaned`` as `Cleaning.figures`."""

    made: datetime
    bill: Bill
    costs: Mapping[str, RunCost] = field(default_factory=dict)
    clusters: Sequence[Living] = ()
    unfinished: Sequence[StoredRun] = ()
    uploads: Sequence[Upload] = ()
    cleaned: Sequence[Mapping[str, Any]] = ()
    forgotten_days: int = 7
    retention_days: int = 30


@dataclass(frozen=True)
class _Bar:
    """A cell that shows a share of 1 as a bar."""

    share: float


def message(words: Words, facts: Facts, page: str) -> Message:
    """The report in a few lines; ``page`` is where the whole lies."""
    bill, date = facts.bill, words.day(facts.made)
    lines = _bill_lines(words, bill)
    for run, amount in list(bill.by_run.items())[:_LARGEST_IN_MESSAGE]:
        name = run or words("report.untagged")
        lines.append(words("report.line", name=name, value=words.money(amount, bill.unit)))
    lines.append(words("report.alive", count=words.number(len(facts.clusters))))
    for cluster in facts.clusters:
        age = words.duration(cluster.age(facts.made).total_seconds())
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
    title, footer = words("report.title", date=words.day(facts.made)), words("report.footer")
    lines = [*_bill_lines(words, facts.bill), _cleaned_line(words, facts)]
    body = [
        f"<h1>{escape(title)}</h1>",
        _paragraph(words("report.period", start=facts.bill.start, end=facts.bill.end, tag=RUN_TAG)),
        "".join(_paragraph(line) for line in lines),
        *_bill_tables(words, facts),
        *_clusters(words, facts),
        *_unfinished(words, facts),
        *_uploads(words, facts),
        *_cleaned(words, facts),
        f"<footer>{escape(footer)}</footer>",
    ]
    return _SHELL.format(language=words.language, title=escape(title), body="\n".join(body))


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


def _bill_tables(words: Words, facts: Facts) -> list[str]:
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
        amount, cost = bill.by_run.get(run), facts.costs.get(run, RunCost())
        difference = None
        if amount is not None and cost.by_the_clock is not None and bill.unit == "USD":
            difference = amount - cost.by_the_clock
        name = run or words("report.untagged")
        runs.append((name, billed(amount), usd(cost.by_the_clock), usd(difference), usd(cost.estimate)))
    services = [(service, billed(amount)) for service, amount in bill.by_service.items()]
    names = [words(f"column.{name}") for name in ("run", "bill", "clock", "difference", "estimate")]
    return [
        _heading(words("report.by_run")),
        _table(words, names, runs),
        _heading(words("report.by_day")),
        _table(words, [words("column.day"), words("column.bill"), ""], days),
        _heading(words("report.by_service")),
        _table(words, [words("column.service"), words("column.bill")], services),
    ]


def _clusters(words: Words, facts: Facts) -> list[str]:
    rows = [
        (
            cluster.cluster_id,
            cluster.run_key,
            cluster.state,
            words.duration(cluster.age(facts.made).total_seconds()),
        )
        for cluster in facts.clusters
    ]
    names = [words(f"column.{name}") for name in ("cluster", "run", "state", "age")]
    return [_heading(words("report.clusters")), _table(words, names, rows)]


def _unfinished(words: Words, facts: Facts) -> list[str]:
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
    note = _paragraph(words("report.unfinished.note", days=facts.forgotten_days))
    command = "<pre>python -m fruit_pipeline.clean --everything --run &lt;key&gt;</pre>"
    return [
        _heading(words("report.unfinished")),
        *([note, command] if rows else []),
        _table(words, names, rows),
    ]


def _uploads(words: Words, facts: Facts) -> list[str]:
    rows = [(upload.key, words.size(upload.bytes), words.moment(upload.started)) for upload in facts.uploads]
    names = [words(f"column.{name}") for name in ("object", "size", "started")]
    note = _paragraph(words("report.uploads.note", days=facts.forgotten_days))
    return [_heading(words("report.uploads")), *([note] if rows else []), _table(words, names, rows)]


def _cleaned(words: Words, facts: Facts) -> list[str]:
    rows = [
        (cleaning["run"], words.number(cleaning["objects"]), words.size(cleaning["bytes"]))
        for cleaning in facts.cleaned
    ]
    names = [words(f"column.{name}") for name in ("run", "objects", "size")]
    note = _paragraph(words("report.cleaned.note", days=facts.retention_days))
    return [_heading(words("report.cleaned.heading")), note, _table(words, names, rows)]


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _table(words: Words, names: Sequence[str], rows: Iterable[Sequence[str | _Bar]]) -> str:
    """A table whose first column is text and whose others stand to the right."""
    lines = ["".join(_cell(value) for value in row) for row in rows]
    if not lines:
        return _paragraph(words("report.none"))
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _cell(value: str | _Bar) -> str:
    if isinstance(value, _Bar):
        return f'<td class="bar"><span style="width:{100 * value.share:.1f}%"></span></td>'
    return f"<td>{escape(value)}</td>"


_SHELL = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
h2 {{ margin-top: 2rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ padding: .25rem .75rem; border-bottom: 1px solid #8884; text-align: right }}
th, td {{ overflow-wrap: anywhere }}
th:first-child, td:first-child {{ text-align: left }}
td.bar {{ width: 40% }}
td.bar span {{ display: block; height: 1em; background: #4a90d9 }}
pre {{ background: #8882; padding: .5rem; overflow-x: auto }}
footer {{ margin-top: 3rem; font-size: .85em; opacity: .8 }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
