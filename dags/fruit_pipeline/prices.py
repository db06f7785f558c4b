"""What AWS asks for instances, volumes and requests in a region: one dated file, and its renewal.

    python -m fruit_pipeline.prices --region eu-west-3
    python -m fruit_pipeline.prices --region eu-west-3 --refresh
    python -m fruit_pipeline.prices --region eu-north-1 --refresh --types m5.xlarge,m6g.xlarge

prints `emr_configs/prices/<region>.json`. With --refresh the file is written anew, as a whole, from
the AWS Price List and EC2's Spot price history, for the types that it has, those of all cluster
shapes, and --types. The credentials need pricing:GetProducts and ec2:DescribeSpotPriceHistory.

All prices are in USD without tax, for Linux on shared tenancy. Each names its source.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from image_features.errors import JobError

if TYPE_CHECKING:
    from fruit_pipeline.aws import Aws

# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
PRICE_LIST_REGION = "eu-central-1"
"""The Price List answers in a few regions only, for all; this one lies in the EU."""


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

    def of(self, instance_type: str) -> InstancePrice:
        """Raises JobError, with the closest names, for a type that the file does not have."""
        if instance_type not in self.instances:
            near = difflib.get_close_matches(instance_type, self.instances, n=3, cutoff=0.5)
            near = near or sorted(self.instances)[:3]
            raise JobError(
                f"instance type {instance_type} has no price in {self.region}; there are {', '.join(near)}. "
                "Take one of those, or, if the region offers it: python -m fruit_pipeline.prices "
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
            f"python -m fruit_pipeline.prices --region {region} --refresh"
        ) from None
    except ValueError as error:
        raise JobError(f"{path} is no JSON: {error}") from error
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


def write(path: Path, prices: Prices) -> None:
    """Write the file beside its place and rename it: a reader sees the old prices or the new ones."""
    text = json.dumps(asdict(prices, dict_factory=_without_none), indent=2, ensure_ascii=False)
    # A figure a line: what changed from one renewal to the next is then seen at once.
    text = re.sub(r'\{\s+"usd": ([^,]+),\s+"source": ("[^"]+")\s+\}', r'{ "usd": \1, "source": \2 }', text)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
    Path(name).chmod(0o644)
    Path(name).replace(path)


def _without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


def fetch(region: str, types: Iterable[str], pricing: Any, ec2: Any) -> Prices:
    """Ask AWS for the prices of a region. Raises JobError that names what the Price List does not have.

    ``pricing`` and ``ec2`` are boto3 clients, ``ec2`` one of the region.
    """
    types = sorted(set(types))
    today = datetime.now(UTC).date().isoformat()
    ec2_prices = {name: _ec2_price(pricing, region, name) for name in types}
    emr_prices = {name: _emr_price(pricing, region, name) for name in types}
    missing = [name for name in types if None in (ec2_prices[name], emr_prices[name])]
    if missing:
        raise JobError(
            f"the AWS Price List has no EC2 or EMR price of {', '.join(missing)} in {region}: "
            "the region does not offer it, or EMR does not; leave it out of the shapes and of --types"
        )
    spot_prices = _spot_prices(ec2, types)
    instances = {}
    for name in types:
        figures = {"ec2": _listed(ec2_prices[name]), "emr": _listed(emr_prices[name])}
        if name in spot_prices:
            figures["spot"] = Figure(spot_prices[name], "spot")
        instances[name] = InstancePrice(**figures)
    sources = {"price-list": Source(today, "AWS Price List API, on the day of the date.")}
    if spot_prices:
        sources["spot"] = Source(today, "Spot price history of EC2 when asked: mean over the zones.")
    return Prices(region=region, sources=sources, instances=instances, **_rates(pricing, region))


def _listed(usd: float | None) -> Figure:
    assert usd is not None
    return Figure(usd, "price-list")


# The attributes of the Price List that single out one product; usagetype is checked as well, since
# one set of attributes may match several products. A region's usagetypes start with its short name.


def _ec2_price(pricing: Any, region: str, instance_type: str) -> float | None:
    found = _products(
        pricing,
        "AmazonEC2",
        region,
        rf"BoxUsage:{re.escape(instance_type)}",
        instanceType=instance_type,
        operatingSystem="Linux",
        tenancy="Shared",
        preInstalledSw="NA",
        capacitystatus="Used",
    )
    return _price(found)


def _emr_price(pricing: Any, region: str, instance_type: str) -> float | None:
    found = _products(
        pricing,
        "ElasticMapReduce",
        region,
        rf"BoxUsage:{re.escape(instance_type)}",
        instanceType=instance_type,
        productFamily="Elastic Map Reduce Instance",
        softwareType="EMR",
    )
    return _price(found)


def _rates(pricing: Any, region: str) -> dict[str, Figure]:
    """EBS and S3."""
    asked: dict[str, tuple[str, str, dict[str, str], int]] = {
        "gp3_gb_month": (
            "AmazonEC2",
            r"EBS:VolumeUsage\.gp3",
            {"productFamily": "Storage", "volumeApiName": "gp3"},
            1,
        ),
        # Priced by the request.
        "s3_put_1000": ("AmazonS3", "Requests-Tier1", {"productFamily": "API Request"}, 1000),
        "s3_get_1000": ("AmazonS3", "Requests-Tier2", {"productFamily": "API Request"}, 1000),
        "s3_gb_month": (
            "AmazonS3",
            "TimedStorage-ByteHrs",
            {"productFamily": "Storage", "volumeType": "Standard"},
            1,
        ),
    }
    found = {}
    for name, (service, usage, attributes, times) in asked.items():
        price = _price(_products(pricing, service, region, usage, **attributes))
        if price is None:
            raise JobError(f"the AWS Price List has no {usage} of {service} in {region}; nothing was written")
        found[name] = Figure(round(price * times, 8), "price-list")
    return found


def _products(pricing: Any, service: str, region: str, usage: str, **attributes: str) -> list[dict[str, Any]]:
    """Products of a service whose usagetype is the region's short name and ``usage``, a pattern."""
    wanted = {"regionCode": region, **attributes}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    pages = pricing.get_paginator("get_products").paginate(ServiceCode=service, Filters=filters)
    products = [json.loads(text) for page in pages for text in page["PriceList"]]
    pattern = re.compile(rf"(?:[A-Z0-9]+-)?{usage}")
    return [
        product
        for product in products
        if pattern.fullmatch(product["product"]["attributes"].get("usagetype", ""))
    ]


def _price(products: Iterable[Mapping[str, Any]]) -> float | None:
    """The price on demand in USD of the first unit; the dearest, should several products be left."""
    found = [
        float(dimension["pricePerUnit"]["USD"])
        for product in products
        for term in product["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension.get("beginRange", "0") == "0" and "USD" in dimension["pricePerUnit"]
    ]
    found = [price for price in found if price > 0]
    return max(found) if found else None


def _spot_prices(ec2: Any, types: list[str]) -> dict[str, float]:
    """Mean of the zones' current Spot prices, for the types that have one."""
    now = datetime.now(UTC)
    pages = ec2.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=types, ProductDescriptions=["Linux/UNIX"], StartTime=now, EndTime=now
    )
    latest: dict[str, dict[str, tuple[datetime, float]]] = {}
    for page in pages:
        for entry in page["SpotPriceHistory"]:
            zones = latest.setdefault(entry["InstanceType"], {})
            price = (entry["Timestamp"], float(entry["SpotPrice"]))
            zones[entry["AvailabilityZone"]] = max(price, zones.get(entry["AvailabilityZone"], price))
    means = {name: fmean(price for _, price in zones.values()) for name, zones in latest.items()}
    return {name: round(mean, 5) for name, mean in means.items() if name in types and mean > 0}


def wanted_types(home: Path, region: str, more: Iterable[str] = ()) -> set[str]:
    """Types to ask for: those that the file has, those of all shapes, and ``more``."""
    from fruit_pipeline.cluster import load_shape, shape_names

    known = set(load(home, region).instances) if path_of(home, region).exists() else set()
    shapes = [load_shape(home, name) for name in shape_names(home)]
    return {*known, *more, *(name for shape in shapes for nodes in shape.nodes for name in nodes.weights)}


def refresh(home: Path, region: str, aws: Aws, more: Iterable[str] = ()) -> Prices:
    """Fetch a region's prices and write its file. Raises JobError when AWS does not answer or lacks one."""
    from fruit_pipeline.calls import explained

    with explained("the AWS Price List", aws):
        pricing = aws.client("pricing", region=PRICE_LIST_REGION)
        found = fetch(region, wanted_types(home, region, more), pricing, aws.client("ec2"))
    write(path_of(home, region), found)
    return found


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


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import cli, settings
    from fruit_pipeline.aws import Aws

    parser = cli.parser(__doc__)
    parser.add_argument("--region", help="default: FRUITS_REGION")
    parser.add_argument("--refresh", action="store_true", help="ask AWS, and write the file anew")
    parser.add_argument(
        "--types", default="", metavar="TYPE,...", help="with --refresh: further instance types"
    )
    args = parser.parse_args(argv)

    def run() -> Any:
        deployment = settings.load()
        region = args.region or deployment.region
        if args.refresh:
            more = [name.strip() for name in args.types.split(",") if name.strip()]
            found = refresh(deployment.home, region, Aws.from_environment(region), more)
        elif args.types:
            raise JobError("--types goes with --refresh")
        else:
            found = load(deployment.home, region)
        return asdict(found, dict_factory=_without_none) if args.json else found

    return cli.run(run, args, show=lambda found: print(table(found)))


if __name__ == "__main__":
    sys.exit(main())
