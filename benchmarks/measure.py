"""The arithmetic of the figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


def interleaved(
    sides: Mapping[str, Callable[[], T]], repeats: int, fewer: Mapping[str, int] | None = None
) -> dict[str, list[T]]:
    """Run each side in turn, ``repeats`` times over: A B A B, so a slow minute falls on both.

    ``fewer`` names sides that take part in the first rounds only, and in how many.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            if turn < (fewer or {}).get(name, repeats):
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
    """A finished shard: its images, and when its object was written."""

    images: int
    finished: float  # seconds, any epoch


def steady_rate(tasks: Sequence[Sequence[ShardTime]], cores: int) -> float | None:
    """Images a second while every core computes and every worker has its model open.

    ``tasks`` are in the order that Spark hands them out, each with its shards in theirs. The task at
    place j >= cores starts when the (j - cores + 1)-th task finishes, and a shard within a task when
    the one before it is written. So the share of each shard done at any moment is known.

    The window runs from the end of the last of the cores' first shards (whose start held the opening
    of the model) to the first finish after which no task is left to start; the images in it are
    counted with the shares of the shards in flight at both ends. None when there are too few shards
    for such a window.
    """
    if len(tasks) < cores or sum(map(len, tasks)) < 2 * cores + 1:
        return None
    finishes = sorted(task[-1].finished for task in tasks)
    begin = max(task[0].finished for task in tasks[:cores])
    end = finishes[len(tasks) - cores]
    if end <= begin:
        return None
    images = 0.0
    for place, task in enumerate(tasks):
        # When a core's first shard began is not known, and not asked: it ended before the window.
        started = task[0].finished if place < cores else finishes[place - cores]
        for shard in task:
            images += shard.images * (
                _share(end, started, shard.finished) - _share(begin, started, shard.finished)
            )
            started = shard.finished
    return images / (end - begin)


def _share(moment: float, started: float, finished: float) -> float:
    if finished <= started:
        return float(moment >= finished)
    return min(1.0, max(0.0, (moment - started) / (finished - started)))
