"""Estimate of the time and cost of a run's cluster, before the run.

Only the cluster is estimated, from its request to its end. Drawing and uploading the sample take time
on the Airflow worker and cost next to nothing.

Extraction takes images / (vCPUs x images a second of one vCPU), plus one shard for the cores that
finish last. The images a second are measured on one core (RATE) and scaled to a vCPU of EC2
(VCPU_SPEEDS, assumed, rounded down). Start, bootstrap and overheads of a step are constants. Every node
costs EC2's price, EMR's fee and its volumes for the whole time. There are three cases:

- expected: Spot where the shape asks for it, at the mean of the fleet's types.
- low: the cheapest and the fastest of the types, and vCPUs 1.5 times as fast as assumed.
- high: all nodes on demand, because no Spot capacity is left, at the most expensive and slowest type; vCPUs
  half as fast as assumed, a slow start, and the whole time that EMR tries to get Spot nodes.

A run that resumes or reuses computes less. The estimate does not take that into account.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from fruit_pipeline.cost.measured import (
    BOOTSTRAP_SECONDS,
    COMPUTE,
    DECODE_SECONDS_PER_MB,
    END_SECONDS,
    HOURS_A_MONTH,
    INT8_SPEED,
    LEAST_PIXELS,
    OTHER_VCPU_SPEED,
    PCA_ROWS,
    PCA_SECONDS,
    RATE,
    ROOT_GB,
    SMALL_IMAGE_BYTES,
    SPEED_FACTORS,
    START_SECONDS,
    STEP_SECONDS,
    VCPU_SPEEDS,
)
from fruit_pipeline.cost.prices import InstancePrice, Prices
from fruit_pipeline.model.backbones import DEFAULT_INPUT_SIZE
from fruit_pipeline.sample.request import SHARD_BYTES, images_per_shard
from image_features.contract import CostEstimate, EstimateCase
from image_features.errors import JobError

if TYPE_CHECKING:
    from fruit_pipeline.cluster.shapes import Nodes, Shape

LIMIT_FACTOR, LIMIT_FLOOR_SECONDS = 3.0, 900.0
"""Limit of a stage: three times its expected seconds, plus 15 minutes. After that it is cancelled."""

STAGES = ("cluster start", "bootstrap", "extract features", "reduce with PCA", "between steps", "cluster end")
INSTANCE_PARTS = ("EC2", "EMR", "EBS")
"""Parts of the cost that grow with the lifetime of the instances."""

PARTS = (*INSTANCE_PARTS, "S3 requests")


@dataclass(frozen=True)
class Work:
    """The computation of a run. ``image_bytes``: mean size of an image file."""

    images: int
    image_bytes: float = SMALL_IMAGE_BYTES
    backbone: str = "mobilenet_v2"
    alpha: float = 1.0
    input_size: int = DEFAULT_INPUT_SIZE
    precision: str = "float32"
    packed: bool = True

    @property
    def width(self) -> int:
        """Features an image. MobileNetV2 has more of them with alpha above 1."""
        return 2048 if self.backbone == "resnet50" else round(1280 * max(1.0, self.alpha))

    @property
    def core_seconds(self) -> float:
        """CPU seconds an image, on the measured core."""
        compute = COMPUTE.get(self.backbone, max(COMPUTE.values())) * max(1.0, self.alpha) ** 2
        pixels = max(LEAST_PIXELS, (self.input_size / DEFAULT_INPUT_SIZE) ** 2)
        speed = INT8_SPEED if self.precision == "int8" else 1.0
        large = max(0.0, self.image_bytes - SMALL_IMAGE_BYTES) / 1e6
        return compute * pixels / speed / RATE + large * DECODE_SECONDS_PER_MB

    def shards(self, cores: int) -> int:
        """As the sample task cuts them."""
        size = images_per_shard(self.images, cores)
        return max(math.ceil(self.images / size), math.ceil(self.images * self.image_bytes / SHARD_BYTES))


def estimate(work: Work, name: str, shape: Shape, prices: Prices, poll_seconds: float = 20) -> CostEstimate:
    """Estimate ``work`` on ``shape``. Raises JobError for an instance type without a price."""
    cases = {case: _case(case, work, shape, prices, poll_seconds) for case in SPEED_FACTORS}
    stored_bytes = work.images * (work.image_bytes * work.packed + 4 * work.width + 500)
    storage = stored_bytes / 1e9 * prices.s3_gb_month.usd
    return CostEstimate(
        work.images, name, prices.region, prices.date, **cases, storage_usd_month=round(storage, 4)
    )


def limits(estimated: CostEstimate) -> dict[str, int]:
    """Seconds after which cluster start, extraction and PCA are cancelled."""

    def limit(stage: str) -> int:
        return round(LIMIT_FACTOR * estimated.expected.seconds[stage] + LIMIT_FLOOR_SECONDS)

    # The high case includes the time that EMR tries to get Spot nodes, which may be longest of all.
    longest_start = round(estimated.high.seconds["cluster start"] + LIMIT_FLOOR_SECONDS)
    start = max(limit("cluster start"), longest_start)
    return {
        "start": start + limit("bootstrap") - round(LIMIT_FLOOR_SECONDS),
        "extraction": limit("extract features"),
        "reduction": limit("reduce with PCA"),
    }


def _case(case: str, work: Work, shape: Shape, prices: Prices, poll_seconds: float) -> EstimateCase:
    speeds = [vcpu_speed(name) for nodes in shape.nodes if nodes.role != "MASTER" for name in nodes.weights]
    speed = _chosen(speeds, case, low=max, high=min) * SPEED_FACTORS[case]
    shards, cores = work.shards(shape.worker_cores), shape.worker_cores
    image_seconds = work.core_seconds / speed
    rows = PCA_ROWS * speed * (1280 / work.width) ** 2
    seconds = {
        "cluster start": START_SECONDS[case] + (_spot_seconds(shape) if case == "high" else 0),
        "bootstrap": BOOTSTRAP_SECONDS,
        "extract features": STEP_SECONDS + (work.images / cores + work.images / shards) * image_seconds,
        "reduce with PCA": STEP_SECONDS + PCA_SECONDS + work.images / rows / cores,
        # EMR starts the extraction by itself. PCA and termination start when Airflow polls.
        "between steps": 2 * poll_seconds,
        "cluster end": END_SECONDS,
    }
    total = sum(seconds.values())
    hours = total / 3600
    instances = sum(_count(nodes, case) for nodes in shape.nodes)
    usd = {
        "EC2": hours * sum(_hourly(nodes, case, prices, _ec2_price(case)) for nodes in shape.nodes),
        "EMR": hours * sum(_hourly(nodes, case, prices, _emr_fee) for nodes in shape.nodes),
        "EBS": hours * instances * (shape.ebs_gb + ROOT_GB) / HOURS_A_MONTH * prices.gp3_gb_month.usd,
        "S3 requests": _requests_usd(work, shards, instances, prices),
    }
    return EstimateCase(
        {stage: round(value, 1) for stage, value in seconds.items()},
        round(total, 1),
        round(hours * instances, 3),
        {part: round(value, 4) for part, value in usd.items()},
        round(sum(usd.values()), 4),
    )


def _chosen(
    values: Sequence[float], case: str, low: Callable[..., float], high: Callable[..., float]
) -> float:
    """The value of one of a fleet's types, or the mean of all, depending on the case."""
    return low(values) if case == "low" else high(values) if case == "high" else fmean(values)


def vcpu_speed(instance_type: str) -> float:
    """Speed of one vCPU as a multiple of the measured core's."""
    match = re.match(r"[a-z]+(\d)([aig]?)", instance_type)
    return VCPU_SPEEDS.get("".join(match.groups()), OTHER_VCPU_SPEED) if match else OTHER_VCPU_SPEED


def most_instances(shape: Shape) -> int:
    """Largest number of instances of a cluster, whichever types EMR chooses."""
    return round(sum(_count(nodes, "high") for nodes in shape.nodes))


def _spot_seconds(shape: Shape) -> float:
    """Longest time that EMR tries to get Spot instances before it takes instances on demand."""
    specs = [
        fleet.get("LaunchSpecifications", {}).get("SpotSpecification", {}) for fleet in shape.instance_fleets
    ]
    return max((60.0 * spec.get("TimeoutDurationMinutes", 0) for spec in specs), default=0.0)


def _count(nodes: Nodes, case: str) -> float:
    """Instances of a group or fleet. An instance of a fleet may provide several of its units."""
    counts = [math.ceil(nodes.units / weight) for weight in nodes.weights.values()]
    return _chosen(counts, case, low=min, high=max)


def _hourly(nodes: Nodes, case: str, prices: Prices, price: Callable[[Nodes, InstancePrice], float]) -> float:
    """USD an hour of a group or fleet, by the prices of its types."""
    hourly = [
        math.ceil(nodes.units / weight) * price(nodes, prices.of(name))
        for name, weight in nodes.weights.items()
    ]
    return _chosen(hourly, case, low=min, high=max)


def _ec2_price(case: str) -> Callable[[Nodes, InstancePrice], float]:
    return lambda nodes, price: price.market("ON_DEMAND" if case == "high" else nodes.market)


def _emr_fee(_: Nodes, price: InstancePrice) -> float:
    return price.emr.usd


def _requests_usd(work: Work, shards: int, instances: float, prices: Prices) -> float:
    """Cost of the S3 requests of all stages.

    A shard is written as sample, features, rejects and embeddings. It is read six times: by the extraction,
    by both passes of the PCA and by the checks. Each node downloads the wheels and uploads logs.
    """
    puts = 4 * shards + 60 + 30 * instances + work.images / 1000  # listing the source counts like PUT
    gets = 6 * shards + 100 + 40 * instances + (0 if work.packed else work.images)
    return (puts * prices.s3_put_1000.usd + gets * prices.s3_get_1000.usd) / 1000


def check_budget(estimated: CostEstimate, max_cost_usd: float, *, coarse: bool = False) -> None:
    """Raise JobError, with the estimate, when the high case costs more than ``max_cost_usd``.

    ``coarse``: the number of images is that of the request, not that of a drawn sample.
    """
    if estimated.high.total_usd <= max_cost_usd:
        return
    images = f"{estimated.images:,} images{', if the source has as many,' if coarse else ''}"
    raise JobError(
        f"too expensive: {images} on {estimated.shape} cost {_usd(estimated.expected)} expected, "
        f"{_usd(estimated.low)} at least and {_usd(estimated.high)} in the high case, above max_cost_usd "
        f"{max_cost_usd:.2f}. Draw fewer images, take precision int8, a smaller input size or another "
        "shape, or raise max_cost_usd; nothing was started"
    )


def _usd(case: EstimateCase) -> str:
    return f"{case.total_usd:.2f} USD in {case.total_seconds / 60:.0f} min"


def table(estimated: CostEstimate) -> str:
    """The estimate as lines of text."""
    cases = (estimated.low, estimated.expected, estimated.high)
    lines = [
        f"{estimated.images:,} images on {estimated.shape} in {estimated.region}, "
        f"prices of {estimated.prices_of} or later",
        f"{'':22}{'low':>10}{'expected':>10}{'high':>10}",
    ]

    def row(name: str, values: list[str]) -> None:
        lines.append(f"  {name:20}" + "".join(f"{value:>10}" for value in values))

    for stage in STAGES:
        row(stage, [f"{case.seconds[stage]:.0f} s" for case in cases])
    row("cluster", [f"{case.total_seconds / 60:.1f} min" for case in cases])
    row("instance-hours", [f"{case.instance_hours:.2f}" for case in cases])
    for part in PARTS:
        row(part, [f"{case.usd[part]:.3f} USD" for case in cases])
    row("cost", [f"{case.total_usd:.2f} USD" for case in cases])
    lines.append(f"  S3 storage of the results: {estimated.storage_usd_month:.3f} USD a month")
    return "\n".join(lines)
