"""The arithmetic of the benchmarks' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def interleaved(
    sides: Mapping[str, Callable[[], T]], repeats: int, fewer: Mapping[str, int] | None = None
) -> dict[str, list[T]]:
    """Run the sides in turn, ``repeats`` times: A B A B, so a slow minute affects both.

    ``fewer`` gives the number of rounds of sides that take part in the first rounds only.
    """
    results: dict[str, list[T]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, side in sides.items():
            if turn < (fewer or {}).get(name, repeats):
                results[name].append(side())
    return results


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Median of the ratios of each repeat's pair: what affects both sides (a slow minute) cancels."""
    return median(a / b for a, b in zip(numerators, denominators, strict=True))


@dataclass(frozen=True)
class ShardTime:
    """A finished shard: its number of images, and the time at which its object was written."""

    images: int
    finished: float  # seconds, any epoch


def steady_rate(tasks: Sequence[Sequence[ShardTime]], cores: int) -> float | None:
    """Images a second while every core computes and every worker has its model open.

    ``tasks`` are in the order in which Spark starts them, and each lists its shards in order. The task at
    place j >= cores starts when the (j - cores + 1)-th task finishes. A shard within a task starts when
    the one before it is written. So the share of each shard that is done at any time is known.

    The window starts when the last core has finished its first shard, which includes opening the model.
    It ends at the first finish after which no task remains to start. Shards that are partly inside the
    window count by their share. None if there are too few shards for such a window.
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
        # The start of a core's first shard is unknown, and not needed: it ended before the window.
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
