"""Fetches the prices of a region from the AWS Price List and EC2's Spot price history.

The credentials need pricing:GetProducts and ec2:DescribeSpotPriceHistory.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cost.prices import Figure, InstancePrice, Prices, Source, load, path_of
from image_features.errors import JobError

# https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
PRICE_LIST_REGION = "eu-central-1"
"""The Price List has endpoints in a few regions, each for all regions; this one is inside the EU."""


@dataclass(frozen=True)
class Product:
    """A product of the Price List: the attributes that select it, and its usage type.

    One set of attributes may match several products, so the usage type is checked as well. Usage types of
    a region begin with its short name, such as EUW3-.
    """

    service: str
    usage_type: str  # pattern, without the region's short name
    attributes: Mapping[str, str]
    units: int = 1  # the price file has the price of this many units

    def of_type(self, instance_type: str) -> Product:
        """The product of one instance type."""
        attributes = {"instanceType": instance_type, **self.attributes}
        return replace(self, usage_type=f"BoxUsage:{re.escape(instance_type)}", attributes=attributes)


_INSTANCES = {
    "ec2": Product(
        "AmazonEC2",
        "",
        {
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        },
    ),
    "emr": Product(
        "ElasticMapReduce", "", {"productFamily": "Elastic Map Reduce Instance", "softwareType": "EMR"}
    ),
}
_RATES = {
    "gp3_gb_month": Product(
        "AmazonEC2", r"EBS:VolumeUsage\.gp3", {"productFamily": "Storage", "volumeApiName": "gp3"}
    ),
    "s3_put_1000": Product("AmazonS3", "Requests-Tier1", {"productFamily": "API Request"}, 1000),
    "s3_get_1000": Product("AmazonS3", "Requests-Tier2", {"productFamily": "API Request"}, 1000),
    "s3_gb_month": Product(
        "AmazonS3", "TimedStorage-ByteHrs", {"productFamily": "Storage", "volumeType": "Standard"}
    ),
}


def write(path: Path, prices: Prices) -> None:
    """Write the file under another name and rename it: readers see the old prices or the new ones."""
    text = json.dumps(prices.to_dict(), indent=2, ensure_ascii=False)
    # One price a line, so that a diff of two versions shows each change.
    text = re.sub(r'\{\s+"usd": ([^,]+),\s+"source": ("[^"]+")\s+\}', r'{ "usd": \1, "source": \2 }', text)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "w") as file:
        file.write(f"{text}\n")
    Path(name).chmod(0o644)
    Path(name).replace(path)


def fetch(region: str, types: Iterable[str], pricing: Any, ec2: Any) -> Prices:
    """Fetch the prices of a region. Raises JobError that names what the Price List does not have.

    ``pricing`` and ``ec2`` are boto3 clients, ``ec2`` one of the region.
    """
    types = sorted(set(types))
    today = datetime.now(UTC).date().isoformat()
    listed = {
        key: {name: _price(pricing, region, product.of_type(name)) for name in types}
        for key, product in _INSTANCES.items()
    }
    missing = [name for name in types if None in (prices[name] for prices in listed.values())]
    if missing:
        raise JobError(
            f"the AWS Price List has no EC2 or EMR price of {', '.join(missing)} in {region}: "
            "the region does not offer it, or EMR does not; leave it out of the shapes and of --types"
        )
    spot = {name: Figure(usd, "spot") for name, usd in _spot_prices(ec2, types).items()}
    instances = {
        name: InstancePrice(
            spot=spot.get(name), **{key: _listed(prices[name]) for key, prices in listed.items()}
        )
        for name in types
    }
    sources = {"price-list": Source(today, "AWS Price List API, on the day of the date.")}
    if spot:
        sources["spot"] = Source(
            today, "Spot price history of EC2, on the day of the date: mean over the zones."
        )
    return Prices(region=region, sources=sources, instances=instances, **_rates(pricing, region))


def _listed(usd: float | None) -> Figure:
    assert usd is not None
    return Figure(usd, "price-list")


def _rates(pricing: Any, region: str) -> dict[str, Figure]:
    """Prices of EBS and S3."""
    rates = {}
    for name, product in _RATES.items():
        price = _price(pricing, region, product)
        if price is None:
            raise JobError(
                f"the AWS Price List has no {product.usage_type} of {product.service} in {region}; "
                "nothing was written"
            )
        rates[name] = _listed(round(price * product.units, 8))
    return rates


def _price(pricing: Any, region: str, product: Product) -> float | None:
    """Price in USD of one unit of a product; None when the Price List has none."""
    usage_type = re.compile(rf"(?:[A-Z0-9]+-)?{product.usage_type}")
    attributes = {"regionCode": region, **product.attributes}
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in attributes.items()]
    pages = pricing.get_paginator("get_products").paginate(ServiceCode=product.service, Filters=filters)
    listed = [json.loads(text) for page in pages for text in page["PriceList"]]
    return first_unit_price(
        entry for entry in listed if usage_type.fullmatch(entry["product"]["attributes"].get("usagetype", ""))
    )


def first_unit_price(entries: Iterable[Mapping[str, Any]]) -> float | None:
    """On-demand price in USD of the first unit, from entries of the Price List; the highest of several."""
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for entry in entries
        for term in entry["terms"].get("OnDemand", {}).values()
        for dimension in term["priceDimensions"].values()
        if dimension.get("beginRange", "0") == "0" and "USD" in dimension["pricePerUnit"]
    ]
    return max((price for price in prices if price > 0), default=None)


def _spot_prices(ec2: Any, types: list[str]) -> dict[str, float]:
    """Mean of the current Spot prices of the zones, USD an hour, for the types that have one."""
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
    """The instance types of the region's file and of all shapes, and ``more``."""
    from fruit_pipeline.cluster.shapes import load_shape, shape_names

    known = set(load(home, region).instances) if path_of(home, region).exists() else set()
    shapes = [load_shape(home, name) for name in shape_names(home)]
    return {*known, *more, *(name for shape in shapes for nodes in shape.nodes for name in nodes.weights)}


def refresh(home: Path, region: str, aws: Aws, more: Iterable[str] = ()) -> Prices:
    """Fetch a region's prices and write its file. Raises JobError when AWS does not answer or lacks one."""
    from fruit_pipeline.aws.errors import explained

    with explained("the AWS Price List", aws):
        pricing = aws.client("pricing", region=PRICE_LIST_REGION)
        prices = fetch(region, wanted_types(home, region, more), pricing, aws.client("ec2"))
    write(path_of(home, region), prices)
    return prices
