"""The arithmetic of the benchmarks."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest

from benchmarks.measure import ShardTime, interleaved, ratio, steady_rate
from image_features.extraction import bundles


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    assert interleaved({"a": partial(side, "a"), "b": partial(side, "b")}, 2) == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]


def test_a_side_with_fewer_rounds_takes_part_in_the_first_ones() -> None:
    order: list[str] = []
    sides = {name: partial(order.append, name) for name in "abc"}
    assert list(map(len, interleaved(sides, 3, {"b": 1}).values())) == [3, 1, 3]
    assert "".join(order) == "abcacac"


def test_ratio_is_the_median_of_pairs() -> None:
    # The second pair ran in a slow minute: both sides took three times as long.
    assert ratio([20, 60, 22], [10, 30, 10]) == 2
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])


def simulate(
    cores: int, tasks: Iterable[Iterable[int]], seconds: float, opening: float, jitter: float = 0.0
) -> list[list[ShardTime]]:
    """Shards of 10 images on ``cores`` workers; the first of each worker takes ``opening`` longer."""
    free = [opening] * cores
    times = []
    for task in tasks:
        worker = min(range(cores), key=lambda w: free[w])
        times.append([])
        for shard in task:
            free[worker] += seconds + jitter * (shard % 3)
            times[-1].append(ShardTime(10, 1000 + free[worker]))
    return times


def singles(shards: int) -> list[list[int]]:
    return [[number] for number in range(shards)]


@pytest.mark.parametrize("shards", [9, 16, 17])
@pytest.mark.parametrize("opening", [0.0, 5.0])
def test_steady_rate_excludes_start_and_end(shards: int, opening: float) -> None:
    assert steady_rate(simulate(2, singles(shards), 1.0, opening), 2) == pytest.approx(20)


@pytest.mark.parametrize("shards", [16, 17, 50])
@pytest.mark.parametrize("cores", [2, 3])
def test_steady_rate_of_bundles(shards: int, cores: int) -> None:
    tasks = bundles(shards, cores)
    assert max(map(len, tasks)) > 1
    assert steady_rate(simulate(cores, tasks, 1.0, 5.0), cores) == pytest.approx(10 * cores)


def test_steady_rate_counts_a_bundle_from_its_first_shard_on() -> None:
    # One worker has all but two shards in one task; the other ends its last half a second earlier.
    tasks = [[ShardTime(10, n) for n in (1.5, 2.5, 3.5, 4.5)], *([ShardTime(10, n)] for n in (1.0, 2.0))]
    tasks += [[ShardTime(10, n)] for n in (3.0, 4.0)]
    assert steady_rate(tasks, 2) == pytest.approx(20)


def test_steady_rate_counts_shards_in_flight() -> None:
    # One worker began half a shard later than the other; each does 10 images a second.
    late = [[ShardTime(10, n // 2 + 1 + (0.5 if n % 2 else 0.0))] for n in range(10)]
    assert steady_rate(late, 2) == pytest.approx(20)


def test_steady_rate_of_uneven_shards() -> None:
    # Shards take 1.0, 1.1 and 1.2 s in turn: the mean, whichever the window cuts.
    rate = steady_rate(simulate(2, bundles(60, 2), 1.0, 2.0, jitter=0.1), 2)
    assert rate == pytest.approx(2 * 10 / 1.1, rel=0.02)


def test_too_few_shards_have_no_steady_rate() -> None:
    assert steady_rate(simulate(2, singles(4), 1.0, 0.0), 2) is None
    assert steady_rate(simulate(2, [range(9)], 1.0, 0.0), 2) is None
