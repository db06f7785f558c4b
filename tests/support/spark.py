"""A stand-in for Spark in this process, without a JVM.

What Spark sends to a worker and back goes through pickle here too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any


def over_the_wire(value: Any) -> Any:
    """A copy through pickle, as of everything that Spark sends to a worker or back."""
    return pickle.loads(pickle.dumps(value))


class LocalRdd:
    """Partitions in this process, computed when an action needs them."""

    def __init__(self, partitions: list[list[Any]], work: Callable[..., Iterator[Any]] = iter) -> None:
        self._partitions, self._work = partitions, work

    def mapPartitions(self, work: Callable[..., Iterable[Any]]) -> LocalRdd:
        return LocalRdd(self._partitions, lambda part: iter(work(self._work(part))))

    def map(self, work: Callable[[Any], Any]) -> LocalRdd:
        return self.mapPartitions(lambda part: map(work, part))

    def groupByKey(self, partitions: int) -> LocalRdd:
        """Spark promises no order of the rows: here, the last comes first."""
        groups: dict[int, list[Any]] = {}
        for key, value in reversed(self.collect()):
            groups.setdefault(key, []).append(value)
        return LocalRdd([[g for g in groups.items() if g[0] % partitions == at] for at in range(partitions)])

    def collect(self) -> list[Any]:
        return [row for part in self._results() for row in part]

    def _results(self) -> list[list[Any]]:
        return [over_the_wire(list(self._work(iter(over_the_wire(part))))) for part in self._partitions]


class LocalContext:
    """What the job code uses of a SparkContext."""

    defaultParallelism = 2
    _jvm = SimpleNamespace(
        java=SimpleNamespace(lang=SimpleNamespace(System=SimpleNamespace(getProperty=lambda name: "none")))
    )

    def parallelize(self, rows: Iterable[Any], slices: int) -> LocalRdd:
        rows = list(rows)
        cuts = [at * len(rows) // slices for at in range(slices + 1)]
        return LocalRdd([rows[cuts[at] : cuts[at + 1]] for at in range(slices)])

    def broadcast(self, value: Any) -> Any:
        return SimpleNamespace(value=over_the_wire(value))


class LocalSpark:
    """What the job code uses of a SparkSession."""

    version = "none"

    def __init__(self) -> None:
        self.sparkContext = LocalContext()
