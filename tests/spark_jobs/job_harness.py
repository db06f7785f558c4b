"""Spark without a JVM, the folders of a run, and how a test's sample is packed."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction
from image_features.contract import FeaturesMarker
from image_features.storage import Storage


def over_the_wire(value: Any) -> Any:
    """A copy through pickle, as everything is that Spark sends to a worker or back."""
    return pickle.loads(pickle.dumps(value))


class LocalRdd:
    """Partitions in this process, computed when an action asks for them."""

    def __init__(self, partitions: list[list[Any]], work: Callable[..., Iterator[Any]] = iter) -> None:
        self._partitions, self._work = partitions, work

    def mapPartitions(self, work: Callable[..., Iterator[Any]]) -> LocalRdd:
        return LocalRdd(self._partitions, lambda part: work(self._work(part)))

    def _results(self) -> list[list[Any]]:
        return [over_the_wire(list(self._work(iter(over_the_wire(part))))) for part in self._partitions]

    def collect(self) -> list[Any]:
        return [row for part in self._results() for row in part]

    def map(self, work: Callable[[Any], Any]) -> LocalRdd:
        return self.mapPartitions(lambda part: map(work, part))

    def groupByKey(self, partitions: int) -> LocalRdd:
        """Rows arrive in no order that Spark promises: here, the last first."""
        groups: dict[int, list[Any]] = {}
        for key, value in reversed(self.collect()):
            groups.setdefault(key, []).append(value)
        return LocalRdd([[g for g in groups.items() if g[0] % partitions == at] for at in range(partitions)])


def no_jvm(_: str) -> str:
    """Any property of Java, where there is none."""
    return "none"


NO_JVM = SimpleNamespace(
    java=SimpleNamespace(lang=SimpleNamespace(System=SimpleNamespace(getProperty=no_jvm)))
)


class LocalContext:
    """What the job code uses of a SparkContext."""

    defaultParallelism = 2
    _jvm = NO_JVM

    def parallelize(self, rows: list[Any], slices: int) -> LocalRdd:
        cuts = [at * len(rows) // slices for at in range(slices + 1)]
        return LocalRdd([rows[cuts[at] : cuts[at + 1]] for at in range(slices)])

    def broadcast(self, value: Any) -> Any:
        return SimpleNamespace(value=over_the_wire(value))


@dataclass(frozen=True)
class Run:
    """The folders of one run below a test's own folder."""

    root: Path
    model: Path
    spark: Any

    @property
    def sample(self) -> Path:
        return self.root / "sample"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def rejects(self) -> Path:
        return self.root / "rejects"

    def extract(self, **options: Any) -> FeaturesMarker:
        return extraction.run(self.spark, str(self.sample), str(self.model), str(self.features), **options)


def pack(folder: Path, target: Path) -> None:
    """Pack all images of a folder; with one core in mind, four shards or more come out."""
    write_sample(SampleRequest(str(folder), cores=1), Source(str(folder)), Storage(target, create=True))


BROKEN = {
    "Apple green/cut.jpg": "truncated",
    "Zucchini/empty.jpg": "empty",
    "Zucchini/letter.jpg": "not-an-image",
    "Zucchini/page.jpg": "not-an-image",
}
"""Files of the packed sample that are no images, and why."""
