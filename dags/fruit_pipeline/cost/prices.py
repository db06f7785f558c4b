"""Prices of instances, volumes and requests in a region: one dated file a region.

All prices of ``emr_configs/prices/<region>.json`` are in USD without tax, for Linux on shared tenancy. Each
names its source. ``price_list`` writes the files.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from image_features.errors import JobError

_EXACT = ConfigDict(extra="forbid", strict=True)


def _iso_day(text: str) -> str:
    date.fromisoformat(text)
    return text


@dataclass(frozen=True)
class Source:
    """Origin of prices."""

    __pydantic_config__ = _EXACT

    date: Annotated[str, AfterValidator(_iso_day)]  # of the prices, or of reading where ``text`` says so
    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


@dataclass(frozen=True)
class Figure:
    """A price."""

    __pydantic_config__ = _EXACT

    usd: Annotated[float, Field(gt=0)]
    source: str  # a key of Prices.sources


@dataclass(frozen=True)
class InstancePrice:
    """Prices of one instance for an hour. Without a Spot price, that on demand is taken."""

    __pydantic_config__ = _EXACT

    ec2: Figure
    emr: Figure  # EMR's fee, on top of EC2's price
    spot: Figure | None = None

    def market(self, market: str) -> float:
        """EC2's price in ``market``: ON_DEMAND or SPOT."""
        return self.spot.usd if market == "SPOT" and self.spot else self.ec2.usd


@dataclass(frozen=True)
class Prices:
    """The prices of one region."""

    __pydantic_config__ = _EXACT

    region: str
    sources: dict[str, Source]
    instances: Annotated[dict[str, InstancePrice], Field(min_length=1)]
    gp3_gb_month: Figure  # EBS
    s3_put_1000: Figure  # PUT, COPY, POST, LIST
    s3_get_1000: Figure  # GET and all others
    s3_gb_month: Figure  # S3 Standard, first 50 TB

    @property
    def date(self) -> str:
        """Day of the oldest source."""
        return min(source.date for source in self.sources.values())

    def to_dict(self) -> dict[str, Any]:
        """The file's content; a missing Spot price is left out."""

        def without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            return {key: value for key, value in pairs if value is not None}

        return asdict(self, dict_factory=without_none)

    def of(self, instance_type: str) -> InstancePrice:
        """The prices of an instance type. Raises JobError, with the closest names, when there are none."""
        if instance_type not in self.instances:
            near = difflib.get_close_matches(instance_type, self.instances, n=3, cutoff=0.5)
            near = near or sorted(self.instances)[:3]
            raise JobError(
                f"instance type {instance_type} has no price in {self.region}; there are {', '.join(near)}. "
                "Take one of those, or, if the region offers it: python -m fruit_pipeline prices "
                f"--region {self.region} --refresh --types {instance_type}"
            )
        return self.instances[instance_type]


def path_of(home: Path, region: str) -> Path:
    return home / "emr_configs" / "prices" / f"{region}.json"


def load(home: Path, region: str) -> Prices:
    """Read and check a region's file. Raises JobError that names file and field."""
    path = path_of(home, region)
    try:
        prices = TypeAdapter(Prices).validate_json(path.read_bytes())
    except FileNotFoundError:
        raise JobError(
            f"no prices of {region}: {path} does not exist; make it with "
            f"python -m fruit_pipeline prices --region {region} --refresh"
        ) from None
    except ValidationError as error:
        raise JobError(f"{path}: {_first_error(error)}") from None
    if prices.region != region:
        raise JobError(f"{path}: region is {prices.region!r}; expected {region!r}, as in the file's name")
    for name, figure in _figures(prices):
        if figure.source not in prices.sources:
            raise JobError(
                f"{path}: {name}.source is {figure.source!r}; expected one of {', '.join(prices.sources)}"
            )
    return prices


def _first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    if first["type"] in ("missing", "json_invalid", "dataclass_type"):
        return f"{where}: {first['msg']}"
    return f"{where} is {first['input']!r}: {first['msg']}"


def _figures(prices: Prices) -> list[tuple[str, Figure]]:
    """All prices of a file, each with the name of its field."""
    instances = [
        (f"instances.{name}.{market}", figure)
        for name, price in prices.instances.items()
        for market, figure in (("ec2", price.ec2), ("emr", price.emr), ("spot", price.spot))
        if figure
    ]
    return [*instances, *((name, getattr(prices, name)) for name in RATES)]


RATES = ("gp3_gb_month", "s3_put_1000", "s3_get_1000", "s3_gb_month")
"""Fields of Prices that are one price each."""


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
