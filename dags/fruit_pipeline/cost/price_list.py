"""Fetches the prices of a region from the AWS Price List."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cost.prices import Figure, InstancePrice, Prices, Source, load, path_of
from image_features.errors import JobError

# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
PRICE_LIST_REGION = "eu-central-1"
"""The Price List answers in a few regions only, for all; this one lies in the EU."""


def write(path: Path, prices: Prices) -> None:
    """Write the file beside its place and rename it: a reader sees the old prices or the new ones."""
    text = json.dumps(prices.to_dict(), indent=2, ensure_ascii=False)
    # A figure a line: what changed from one renewal to the next is then seen at once.
    text = re.sub(r'\{\s+"usd": ([^,]+),\s+"source": ("[^"]+")\s+\}', r'{ "usd": \1, "source": \2 }', text)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
    Path(name).chmod(0o644)
    Path(name).replace(path)


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
    from fruit_pipeline.cluster.shapes import load_shape, shape_names

    known = set(load(home, region).instances) if path_of(home, region).exists() else set()
    shapes = [load_shape(home, name) for name in shape_names(home)]
    return {*known, *more, *(name for shape in shapes for nodes in shape.nodes for name in nodes.weights)}


def refresh(home: Path, region: str, aws: Aws, more: Iterable[str] = ()) -> Prices:
    """Fetch a region's prices and write its file. Raises JobError when AWS does not answer or lacks one."""
    from fruit_pipeline.aws.errors import explained

    with explained("the AWS Price List", aws):
        pricing = aws.client("pricing", region=PRICE_LIST_REGION)
        found = fetch(region, wanted_types(home, region, more), pricing, aws.client("ec2"))
    write(path_of(home, region), found)
    return found
