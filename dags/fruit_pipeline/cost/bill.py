"""The bill of AWS for the tag of the runs, from Cost Explorer.

The tag must be activated as a cost allocation tag. Activation takes up to a day and does not apply to earlier
days. Cost Explorer updates its figures at least once a day. Each request costs a cent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from fruit_pipeline.aws.clusters import RUN_TAG

# https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_GetCostAndUsage.html:
# at most 14 months back, and at most two keys to group by.
MAX_DAYS = 365


@dataclass(frozen=True)
class Bill:
    """Amounts in ``unit``, of the days from ``start`` (included) to ``end`` (excluded), ISO dates."""

    start: str
    end: str
    unit: str = "USD"
    by_day: dict[str, float] = field(default_factory=dict)
    by_run: dict[str, float] = field(default_factory=dict)  # "" for costs whose tag has no value
    by_service: dict[str, float] = field(default_factory=dict)
    estimated: bool = False  # AWS may still change the amounts of some of these days
    problem: str = ""  # why there is no bill

    @property
    def total(self) -> float:
        return round(sum(self.by_day.values()), 6)

    @property
    def last_week(self) -> float:
        first = (date.fromisoformat(self.end) - timedelta(days=7)).isoformat()
        return round(sum(amount for day, amount in self.by_day.items() if day >= first), 6)


def fetch(ce: Any, today: date, days: int) -> Bill:
    """The bill of the ``days`` days before ``today``; ``ce`` is a client of Cost Explorer.

    If Cost Explorer refuses the request, the error is the bill's ``problem``, so that the rest of a report
    can still be written.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    start, end = (today - timedelta(days=days)).isoformat(), today.isoformat()
    try:
        pages = _pages(ce, start, end)
    except (ClientError, BotoCoreError) as error:
        return Bill(start, end, problem=str(error))
    by_day: dict[str, Decimal] = defaultdict(Decimal)
    by_run: dict[str, Decimal] = defaultdict(Decimal)
    by_service: dict[str, Decimal] = defaultdict(Decimal)
    units, estimated = set(), False
    for result in (result for page in pages for result in page["ResultsByTime"]):
        day = result["TimePeriod"]["Start"]
        by_day[day] += 0
        estimated |= result.get("Estimated", False)
        for group in result.get("Groups", []):
            tag, service = group["Keys"]
            cost = group["Metrics"]["UnblendedCost"]
            amount = Decimal(cost["Amount"])
            units.add(cost["Unit"])
            by_day[day] += amount
            by_run[tag.removeprefix(f"{RUN_TAG}$")] += amount
            by_service[service] += amount
    if len(units) > 1:  # the accounts of an organisation may have different currencies
        return Bill(start, end, problem=f"amounts in several units: {', '.join(sorted(units))}")
    return Bill(
        start,
        end,
        unit=next(iter(units), "USD"),
        by_day=_floats(dict(sorted(by_day.items()))),
        by_run=_floats(_largest_first(by_run)),
        by_service=_floats(_largest_first(by_service)),
        estimated=estimated,
    )


def _pages(ce: Any, start: str, end: str) -> list[dict[str, Any]]:
    """All pages of the request for costs by day, run and service."""
    request: dict[str, Any] = {
        "TimePeriod": {"Start": start, "End": end},  # End is excluded
        "Granularity": "DAILY",
        "Metrics": ["UnblendedCost"],
        "GroupBy": [{"Type": "TAG", "Key": RUN_TAG}, {"Type": "DIMENSION", "Key": "SERVICE"}],
        # Every cost with the tag, whatever its value.
        "Filter": {"Not": {"Tags": {"Key": RUN_TAG, "MatchOptions": ["ABSENT"]}}},
    }
    pages = [ce.get_cost_and_usage(**request)]
    while token := pages[-1].get("NextPageToken"):
        pages.append(ce.get_cost_and_usage(**request, NextPageToken=token))
    return pages


def _largest_first(amounts: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return dict(sorted(amounts.items(), key=lambda item: (-item[1], item[0])))


def _floats(amounts: Mapping[str, Decimal]) -> dict[str, float]:
    return {name: round(float(amount), 6) for name, amount in amounts.items()}
