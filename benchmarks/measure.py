"""The arithmetic of the figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def interleaved(sides: Mapping[str, Callable[[], T]], repeats: int) -> dict[str, list[T]]:
    """Run each side in turn, ``repeats`` times over: A B A B, so a slow minute falls on both."""
    results: dict[str, list[T]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            results[name].append(side())
    return results


def median(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("no values to take the median of")
    return float(statistics.median(values))


def ratio(other: Sequence[float], ours: Sequence[float]) -> float:
    """Median of the ratios of each repeat's pair: what a pair shares (a slow minute) cancels."""
    return median([a / b for a, b in zip(other, ours, strict=True)])


@dataclass(frozen=True)
class ShardTime:
    """A finished shard: its place in the plan, its images, and when its object was written."""

    shard: int
    images: int
    finished: float  # seconds, any epoch


def steady_rate(shards: Sequence[ShardTime], cores: int) -> float | None:
    """Images a second while every core computes and every worker has its model open.

    Tasks are handed out in the plan's order: the shard at place j >= cores starts when the
    (j - cores + 1)-th shard finishes. So the share of each shard done at any moment is known.
    The window runs from the end of the last shard of the first wave (whose start held the opening
    of the model) to the first finish after which no shard is left to start; the images in it are
    counted with the shares of the shards in flight at both ends. None when there are too few
    shards for such a window.
    """
    plan = sorted(shards, key=lambda s: s.shard)
    finishes = sorted(s.finished for s in plan)
    if len(plan) < 2 * cores + 1:
        return None
    begin = max(s.finished for s in plan[:cores])
    end = finishes[len(plan) - cores]
    if end <= begin:
        return None
    images = 0.0
    for place, shard in enumerate(plan[cores:]):
        started = finishes[place]
        images += shard.images * (
            _share(end, started, shard.finished) - _share(begin, started, shard.finished)
        )
    return images / (end - begin)


def _share(moment: float, started: float, finished: float) -> float:
    if finished <= started:
        return float(moment >= finished)
    return min(1.0, max(0.0, (moment - started) / (finished - started)))
