"""What AWS asks for instances, volumes and requests in a region: one dated file, and its renewal.

prints `emr_configs/prices/<region>.json`. With --refresh the file is written anew, as a whole, from
the AWS Price List and EC2's Spot price history, for the types that it has, those of all cluster
shapes, and --types. The credentials need pricing:GetProducts and ec2:DescribeSpotPriceHistory.

All prices are in USD without tax, for Linux on shared tenancy. Each names its source.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_features.errors import JobError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Source:
    """Where prices come from: ``date`` (ISO) is that of the prices, or of reading where ``text`` says so."""

    date: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A price in USD; ``source`` is a key of Prices.sources."""

    usd: float
    source: str


@dataclass(frozen=True)
class InstancePrice:
    """USD an hour of one instance. Without a Spot price, the one on demand stands for it."""

    ec2: Figure
    emr: Figure  # EMR's fee, on top of EC2's price
    spot: Figure | None = None

    def market(self, market: str) -> float:
        """EC2's price in ``market``: ON_DEMAND or SPOT."""
        return self.spot.usd if market == "SPOT" and self.spot else self.ec2.usd


@dataclass(frozen=True)
class Prices:
    """The file of one region."""

    region: str
    sources: dict[str, Source]
    instances: dict[str, InstancePrice]
    gp3_gb_month: Figure  # EBS
    s3_put_1000: Figure  # PUT, COPY, POST, LIST
    s3_get_1000: Figure  # GET and all others
    s3_gb_month: Figure  # S3 Standard, first 50 TB

    @property
    def date(self) -> str:
        """Of the oldest source."""
        return min(source.date for source in self.sources.values())

    def to_dict(self) -> dict[str, Any]:
        """The file's content; a missing Spot price is left out."""

        def without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if value is not None}

        return asdict(self, dict_factory=without_none)

    def of(self, instance_type: str) -> InstancePrice:
        """Raises JobError, with the closest names, for a type that the file does not have."""
        if instance_type not in self.instances:
            near = difflib.get_close_matches(instance_type, self.instances, n=3, cutoff=0.5)
            near = near or sorted(self.instances)[:3]
            raise JobError(
                f"instance type {instance_type} has no price in {self.region}; there are {', '.join(near)}. "
                "Take one of those, or, if the region offers it: python -m fruit_pipeline prices "
                f"--region {self.region} --refresh --types {instance_type}"
            )
        return self.instances[instance_type]


_RATES = ("gp3_gb_month", "s3_put_1000", "s3_get_1000", "s3_gb_month")


def path_of(home: Path, region: str) -> Path:
    return home / "emr_configs" / "prices" / f"{region}.json"


def load(home: Path, region: str) -> Prices:
    """Read and check a region's file. Raises JobError that names file and field."""
    path = path_of(home, region)
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise JobError(
            f"no prices of {region}: {path} does not exist; make it with "
            f"python -m fruit_pipeline prices --region {region} --refresh"
        ) from None
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from error
    try:
        return _parsed(values, region)
    except _Wrong as wrong:
        raise JobError(f"{path}: {wrong}") from None


class _Wrong(Exception):
    """What is wrong with a file of prices, and where in it."""


def _parsed(values: Any, region: str) -> Prices:
    _keys(values, "the file", {item.name for item in fields(Prices)})
    if values["region"] != region:
        raise _Wrong(f"region is {values['region']!r}; expected {region!r}, as the file's name says")
    sources = {}
    for name, source in _items(values["sources"], "sources"):
        where = f"sources.{name}"
        _keys(source, where, {"date", "text"})
        try:
            date.fromisoformat(source["date"])
        except (TypeError, ValueError):
            raise _Wrong(f"{where}.date is {source['date']!r}; expected a day such as 2026-11-20") from None
        if not isinstance(source["text"], str) or not source["text"].strip():
            raise _Wrong(f"{where}.text must say where the prices come from")
        sources[name] = Source(**source)
    instances = {}
    for name, prices in _items(values["instances"], "instances"):
        where = f"instances.{name}"
        _keys(prices, where, {"ec2", "emr"}, {"spot"})
        figures = {key: _figure(value, f"{where}.{key}", sources) for key, value in prices.items()}
        instances[name] = InstancePrice(**figures)
    rates = {name: _figure(values[name], name, sources) for name in _RATES}
    return Prices(region=region, sources=sources, instances=instances, **rates)


def _items(value: Any, where: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise _Wrong(f"{where} must be an object with at least one entry")
    return value.items()


def _keys(value: Any, where: str, needed: set[str], optional: Iterable[str] = ()) -> None:
    if not isinstance(value, dict) or not needed <= set(value) <= {*needed, *optional}:
        raise _Wrong(f"{where} must be an object of {', '.join(sorted([*needed, *optional]))}")


def _figure(value: Any, where: str, sources: Mapping[str, Source]) -> Figure:
    _keys(value, where, {"usd", "source"})
    if isinstance(value["usd"], bool) or not isinstance(value["usd"], int | float) or value["usd"] <= 0:
        raise _Wrong(f"{where}.usd is {value['usd']!r}; expected a price above 0")
    if value["source"] not in sources:
        raise _Wrong(f"{where}.source is {value['source']!r}; expected one of {', '.join(sources)}")
    return Figure(float(value["usd"]), value["source"])


# The attributes of the Price List that single out one product; usagetype is checked as well, since
# one set of attributes may match several products. A region's usagetypes start with its short name.


def table(prices: Prices) -> str:
    """The prices as lines of text."""
    lines = [f"{prices.region}, USD                  EC2       Spot   EMR's fee   an hour"]
    for name, price in sorted(prices.instances.items()):
        spot = f"{price.spot.usd:10.4f}" if price.spot else f"{'-':>10}"
        lines.append(f"  {name:20} {price.ec2.usd:10.4f} {spot} {price.emr.usd:11.4f}")
    lines += [
        f"  EBS gp3              {prices.gp3_gb_month.usd:10.4f}   a GB and month",
        f"  S3 Standard          {prices.s3_gb_month.usd:10.4f}   a GB and month",
        f"  S3 PUT, LIST         {prices.s3_put_1000.usd:10.4f}   for 1,000",
        f"  S3 GET               {prices.s3_get_1000.usd:10.5f}   for 1,000",
    ]
    lines += [f"{source.date}  {name}: {source.text}" for name, source in prices.sources.items()]
    return "\n".join(lines)
