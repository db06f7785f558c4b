"""The actual cost of a cluster, from the lifetimes of its instances."""

from __future__ import annotations

from typing import Any

from fruit_pipeline.aws import clusters
from fruit_pipeline.cost.estimate import INSTANCE_PARTS
from fruit_pipeline.cost.measured import HOURS_A_MONTH, LEAST_BILLED_SECONDS, ROOT_GB
from fruit_pipeline.cost.prices import Prices
from image_features.contract import ActualCost


def actual_cost(emr: Any, cluster_id: str, prices: Prices, ebs_gb: int) -> ActualCost:
    """Cost of a cluster until its end, or until now while it is alive.

    ``ebs_gb``: GB of EBS volumes a node, without its root volume. Spot instances count with the Spot
    price of the price file, which differs from the price that AWS bills.
    """
    cluster = clusters.describe(emr, cluster_id)
    now = cluster.server_time
    instances = [
        instance
        for page in emr.get_paginator("list_instances").paginate(ClusterId=cluster_id)
        for instance in page["Instances"]
    ]
    usd = dict.fromkeys(INSTANCE_PARTS, 0.0)
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
    return ActualCost(
        seconds=round(total, 1),
        instance_hours=round(hours, 3),
        usd={part: round(value, 4) for part, value in usd.items()},
        total_usd=round(sum(usd.values()), 4),
        ended=cluster.ended is not None,
        prices_of=prices.date,
        unpriced=sorted(unpriced),
    )
