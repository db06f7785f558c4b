"""Progress of a running step, measured by the objects that it writes: counts, pace, time left.

The pace follows from the times at which shards were written. So the first poll already knows it, also after
a restart. Shards from before the step's start, and features that are taken over from an earlier run
(``reuse``), count as done but not in the pace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import accumulate
from statistics import StatisticsError, linear_regression

from image_features.contract import (
    REUSED,
    FeaturesMarker,
    FeaturesShard,
    RunLayout,
    SampleMarker,
    shard_key,
    shard_number,
)
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.shards import shard_info
from image_features.storage import Storage, StoredObject

# The pace is that of the last ten minutes: a cluster may grow, shrink, or lose Spot nodes.
_WINDOW_SECONDS = 600
# Listings have whole seconds: over a shorter time, the error of a pace would be a fifth or more.
_LEAST_SECONDS = 5
_READERS = 8


@dataclass(frozen=True)
class FinishedShard:
    """A shard that has been written; ``computed``: the part of ``count`` that this step computed."""

    written: datetime
    count: int  # in the unit of the stage
    computed: int
    rejects: int = 0


@dataclass(frozen=True)
class Progress:
    """The result of one poll. None: not known."""

    unit: str  # "images" or "shards"
    done: int
    total: int
    rejects: int | None = None  # images; None for a stage without rejects
    per_second: float | None = None
    seconds_left: float | None = None
    quiet_seconds: float | None = None  # since the last shard, when that is unusually long ago
    phase: str = ""  # the step's work while it writes no shard

    @property
    def figures(self) -> str:
        """The figures that are known, beside the counts: "812 images/s · 1 min 9 s left · rejects 3"."""
        parts = [self.phase] if self.phase else []
        if self.per_second is not None:
            digits = 0 if round(self.per_second, 1) >= 10 else 1
            parts.append(f"{self.per_second:,.{digits}f} {self.unit}/s")
        if self.seconds_left:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.quiet_seconds is not None:
            parts.append(f"nothing new for {duration(self.quiet_seconds)}")
        if self.rejects is not None:
            parts.append(f"rejects {self.rejects:,}")
        return " · ".join(parts)

    def __str__(self) -> str:
        counts = f"{self.unit} {self.done:,} / {self.total:,}"
        return f"{counts} · {self.figures}" if self.figures else counts


def duration(seconds: float) -> str:
    """Two units at most: "42 s", "1 min 9 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def poll_interval(elapsed: float, shortest: float) -> float:
    """Seconds until the next poll of a step that has run for ``elapsed`` seconds; each poll logs a line.

    A thirtieth of the elapsed time, between 5 s (or ``shortest``, when that is longer) and 10 min: 30
    lines in the first three minutes, 130 in an hour, about 300 in a day.
    """
    return max(shortest, _LEAST_SECONDS, min(elapsed / 30, 600))


def measure(
    unit: str,
    shards: Iterable[FinishedShard],
    total: int,
    started: datetime,
    now: datetime,
    *,
    count_rejects: bool,
) -> Progress:
    """Progress of a step that began at ``started``, from the shards that are written."""
    finished = sorted(shards, key=lambda shard: shard.written)
    progress = Progress(
        unit,
        done=sum(shard.count for shard in finished),
        total=total,
        rejects=sum(shard.rejects for shard in finished) if count_rejects else None,
    )
    began = started.replace(microsecond=0)  # listings have whole seconds
    new = [shard for shard in finished if shard.written >= began and shard.computed]
    if not new:
        return progress
    # Cores that start together finish together. Only after twice the time to the first shard has a
    # second round ended, and the pace no longer depends on the jitter of the first.
    first = max((new[0].written - began).total_seconds(), _LEAST_SECONDS)
    quiet = (now - new[-1].written).total_seconds()
    if progress.done < total and quiet > 2 * first:
        return replace(progress, quiet_seconds=quiet)
    if (new[-1].written - new[0].written).total_seconds() < first:
        return progress
    window = max(_WINDOW_SECONDS, 3 * first)
    recent = [shard for shard in new if (now - shard.written).total_seconds() <= window]
    per_second = _pace(recent)
    if per_second is None:
        return progress
    # Assume that the share to compute is the same in the remaining shards as in the recent ones.
    appeared = sum(shard.count for shard in finished if shard.written >= recent[0].written)
    to_compute = (total - progress.done) * sum(shard.computed for shard in recent) / appeared
    return replace(progress, per_second=per_second, seconds_left=to_compute / per_second)


def _pace(shards: Sequence[FinishedShard]) -> float | None:
    """Computed a second: slope of the least-squares line through (time, running total); None if undefined.

    Unlike a quotient, it does not depend on the work of the first round before the first shard.
    """
    times = [(shard.written - shards[0].written).total_seconds() for shard in shards]
    try:
        return linear_regression(times, list(accumulate(shard.computed for shard in shards))).slope
    except StatisticsError:  # fewer than two shards, or all written in the same second
        return None


class ExtractionFollower:
    """Measures the extraction of a run by its images."""

    def __init__(self, layout: RunLayout, open_storage: Callable[[str], Storage]) -> None:
        self._sample = open_storage(layout.sample)
        self._features = open_storage(layout.features)
        self._rejects = open_storage(layout.rejects)
        self._sizes: dict[int, int] = {}
        self._footers: dict[tuple[int, str], FeaturesShard] = {}

    def poll(self, started: datetime, now: datetime) -> Progress:
        """Read the run's prefix (blocks). Raises JobError without a sample, or when S3 does not answer."""
        if not self._sizes:
            marker = read_document(SampleMarker, self._sample)
            self._sizes = {shard.shard: shard.images for shard in marker.shards}
        # Rejects are written before the features: listed first, they are complete for each finished shard.
        with_notes = set(_by_number(self._rejects.list()))
        listing = list(self._features.list())
        with_notes |= set(_by_number(obj for obj in listing if _folder(obj) == REUSED))
        finished = _by_number(obj for obj in listing if not _folder(obj))
        self._read_footers({n: obj for n, obj in finished.items() if n in with_notes})
        shards = [self._shard(n, obj) for n, obj in finished.items() if n in self._sizes]
        return measure("images", shards, sum(self._sizes.values()), started, now, count_rejects=True)

    def _shard(self, number: int, obj: StoredObject) -> FinishedShard:
        images, info = self._sizes[number], self._footers.get((number, obj.version))
        if info is None:  # nothing was rejected or taken over: the counts are those of the sample
            return FinishedShard(obj.written, images, images)
        return FinishedShard(obj.written, images, images - info.reused, sum(info.rejects.values()))

    def _read_footers(self, finished: Mapping[int, StoredObject]) -> None:
        """Read the counts in the footers that are new; a later poll tries again what cannot be read."""
        unread = [(n, obj) for n, obj in finished.items() if (n, obj.version) not in self._footers]
        if not unread:
            return

        def read(number: int, obj: StoredObject) -> FeaturesShard | None:
            try:
                metadata = self._features.parquet_metadata(shard_key(number), obj.size)
            except JobError:  # being replaced, or damaged, in which case the step computes it again
                return None
            return shard_info(metadata, FeaturesShard)

        with ThreadPoolExecutor(_READERS) as pool:
            for (number, obj), info in zip(unread, pool.map(lambda one: read(*one), unread), strict=True):
                if info is not None:
                    self._footers[number, obj.version] = info


class ReductionFollower:
    """Measures the PCA of a run by its projected shards. The first pass sums and writes nothing."""

    def __init__(self, layout: RunLayout, open_storage: Callable[[str], Storage]) -> None:
        self._features = open_storage(layout.features)
        self._pca = open_storage(layout.pca)
        self._expected: set[int] = set()

    def poll(self, started: datetime, now: datetime) -> Progress:
        """Read the run's prefix (blocks). Raises JobError without features, or when S3 does not answer."""
        if not self._expected:
            self._expected = {shard.shard for shard in read_document(FeaturesMarker, self._features).shards}
        began = started.replace(microsecond=0)
        # The step writes the shards of an earlier PCA again.
        finished = _by_number(obj for obj in self._pca.list() if obj.written >= began)
        shards = [FinishedShard(obj.written, 1, 1) for n, obj in finished.items() if n in self._expected]
        progress = measure("shards", shards, len(self._expected), started, now, count_rejects=False)
        return progress if progress.done else replace(progress, phase="summing")


FOLLOWERS: dict[str, type[ExtractionFollower] | type[ReductionFollower]] = {
    "extraction": ExtractionFollower,
    "pca": ReductionFollower,
}
"""The followers by stage."""


def _by_number(listing: Iterable[StoredObject]) -> dict[int, StoredObject]:
    numbers = ((shard_number(obj.key), obj) for obj in listing)
    return {number: obj for number, obj in numbers if number is not None}


def _folder(obj: StoredObject) -> str:
    return obj.key.rpartition("/")[0]
