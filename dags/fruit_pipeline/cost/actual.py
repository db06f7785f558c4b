"""What a cluster has cost, from the lifetimes of its instances."""

from __future__ import annotations

from typing import Any

from fruit_pipeline.aws import clusters
from fruit_pipeline.cost.estimate import PARTS
from fruit_pipeline.cost.measured import HOURS_A_MONTH, LEAST_BILLED_SECONDS, ROOT_GB
from fruit_pipeline.cost.prices import Prices


def by_the_clock(emr: Any, cluster_id: str, prices: Prices, ebs_gb: int) -> dict[str, Any]:
    """What a cluster has cost, by the times of its instances; up to now while they are alive.

    Without S3's requests; Spot at the price file's, which is not what was paid to the cent. An
    instance type without a price is listed in ``unpriced`` and counts nothing.
    """
    cluster = clusters.describe(emr, cluster_id)
    now = cluster.server_time
    instances = [
        instance
        for page in emr.get_paginator("list_instances").paginate(ClusterId=cluster_id)
        for instance in page["Instances"]
    ]
    usd = dict.fromkeys(PARTS[:3], 0.0)
    hours, unpriced = 0.0, set()
    for instance in instances:
        clock = instance["Status"]["Timeline"]
        if "CreationDateTime" not in clock:
            continue
        seconds = (clock.get("EndDateTime", now) - clock["CreationDateTime"]).total_seconds()
        own_hours = max(seconds, LEAST_BILLED_SECONDS) / 3600
        hours += own_hours
        price = prices.instances.get(instance["InstanceType"])
        if price is None:
            unpriced.add(instance["InstanceType"])
            continue
        usd["EC2"] += own_hours * price.market(instance["Market"])
        usd["EMR"] += own_hours * price.emr.usd
        usd["EBS"] += own_hours * (ebs_gb + ROOT_GB) / HOURS_A_MONTH * prices.gp3_gb_month.usd
    total = ((cluster.ended or now) - cluster.created).total_seconds()
    return {
        "seconds": round(total, 1),
        "instance_hours": round(hours, 3),
        "usd": {part: round(value, 4) for part, value in usd.items()},
        "total_usd": round(sum(usd.values()), 4),
        "ended": cluster.ended is not None,
        "prices_of": prices.date,
        "unpriced": sorted(unpriced),
    }
