"""The arithmetic of the benchmarks' figures."""

from __future__ import annotations

from functools import partial

import pytest

from benchmarks.measure import ShardTime, interleaved, median, ratio, steady_rate


def test_sides_take_turns() -> None:
    order: list[str] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    assert interleaved({"a": partial(side, "a"), "b": partial(side, "b")}, 2) == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]


def test_ratio_is_the_median_of_pairs() -> None:
    # The second pair ran in a slow minute: both sides took three times as long.
    assert ratio([20, 60, 22], [10, 30, 10]) == 2
    with pytest.raises(ValueError, match="zip"):
        ratio([1, 2], [1])


def test_median_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        median([])


def simulate(cores: int, shards: int, seconds: float, opening: float, jitter: float = 0.0) -> list[ShardTime]:
    """Shards of 10 images on ``cores`` workers; the first of each worker takes ``opening`` longer."""
    free = [opening] * cores
    times = []
    for number in range(shards):
        worker = min(range(cores), key=lambda w: free[w])
        free[worker] += seconds + jitter * (number % 3)
        times.append(ShardTime(number, 10, 1000 + free[worker]))
    return times


@pytest.mark.parametrize("shards", [9, 16, 17])
@pytest.mark.parametrize("opening", [0.0, 5.0])
def test_steady_rate_leaves_start_and_end_out(shards: int, opening: float) -> None:
    assert steady_rate(simulate(2, shards, 1.0, opening), 2) == pytest.approx(20)


def test_steady_rate_counts_shards_in_flight() -> None:
    # One worker began half a shard later than the other; each does 10 images a second.
    late = [ShardTime(n, 10, n // 2 + 1 + (0.5 if n % 2 else 0.0)) for n in range(10)]
    assert steady_rate(late, 2) == pytest.approx(20)


def test_steady_rate_does_not_depend_on_the_order_given() -> None:
    times = simulate(2, 12, 1.0, 2.0, jitter=0.1)
    assert steady_rate(times[::-1], 2) == steady_rate(times, 2)


def test_too_few_shards_have_no_steady_rate() -> None:
    assert steady_rate(simulate(2, 4, 1.0, 0.0), 2) is None
