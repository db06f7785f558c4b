"""How far a running step has come, told by the objects that it writes: done, pace, time left.

The pace comes from the times at which shards were written. So it is known also to one who looks for
the first time, or again after a restart; and what was there before the step's start, or was taken
over from an earlier run (``reuse``), is done but no part of the pace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

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
# Listings give whole seconds; over a shorter time a pace would be off by a fifth and more.
_LEAST_SECONDS = 5
_READERS = 8


@dataclass(frozen=True)
class Shard:
    """A shard that stands; ``count`` is of what the stage counts, ``computed`` is this step's part of it."""

    written: datetime
    count: int
    computed: int
    rejects: int = 0


@dataclass(frozen=True)
class Progress:
    """What a look showed. Unknown is None."""

    what: str  # "images" or "shards"
    done: int
    total: int
    rejects: int | None = None  # images; None where the stage has none
    per_second: float | None = None
    seconds_left: float | None = None
    quiet_seconds: float | None = None  # since the last shard, when that is longer than usual
    phase: str = ""  # what the step does while it writes no shard

    @property
    def figures(self) -> str:
        """What there is to say beside the counts: "812 images/s · 1 min 9 s left · rejects 3"."""
        parts = [self.phase] if self.phase else []
        if self.per_second is not None:
            digits = 0 if round(self.per_second, 1) >= 10 else 1
            parts.append(f"{self.per_second:,.{digits}f} {self.what}/s")
        if self.seconds_left:
            parts.append(f"{duration(self.seconds_left)} left")
        if self.quiet_seconds is not None:
            parts.append(f"nothing new for {duration(self.quiet_seconds)}")
        if self.rejects is not None:
            parts.append(f"rejects {self.rejects:,}")
        return " · ".join(parts)

    def __str__(self) -> str:
        counts = f"{self.what} {self.done:,} / {self.total:,}"
        return f"{counts} · {self.figures}" if self.figures else counts


def duration(seconds: float) -> str:
    """Two units at most: "42 s", "1 min 9 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pause(elapsed: float, poll: float) -> float:
    """Seconds until the next look at a step that has run for ``elapsed``, and so between two lines.

    A thirtieth of the time so far, but 5 s (or ``poll``, when that is longer) to 10 min: 30 lines in
    the first three minutes, 130 in an hour, about 300 in a day.
    """
    return max(poll, _LEAST_SECONDS, min(elapsed / 30, 600))


def measure(
    what: str, shards: Iterable[Shard], total: int, started: datetime, now: datetime, *, rejects: bool
) -> Progress:
    """Sum up the shards that stand, for a step that began at ``started``."""
    standing = sorted(shards, key=lambda shard: shard.written)
    done = sum(shard.count for shard in standing)
    found = sum(shard.rejects for shard in standing) if rejects else None
    began = started.replace(microsecond=0)  # as the listings have it
    new = [shard for shard in standing if shard.written >= began and shard.computed]
    if not new:
        return Progress(what, done, total, found)
    # Cores that began together finish together: only after twice the time to the first shard has a
    # second round been seen, and a pace can be told from the first round's jitter.
    first = max((new[0].written - began).total_seconds(), _LEAST_SECONDS)
    quiet = (now - new[-1].written).total_seconds()
    if done < total and quiet > 2 * first:
        return Progress(what, done, total, found, quiet_seconds=quiet)
    if (new[-1].written - new[0].written).total_seconds() < first:
        return Progress(what, done, total, found)
    window = max(_WINDOW_SECONDS, 3 * first)
    recent = [shard for shard in new if (now - shard.written).total_seconds() <= window]
    per_second = _slope(recent)
    if per_second is None:
        return Progress(what, done, total, found)
    # Of what is left, as large a share will have to be computed as of what appeared meanwhile.
    appeared = sum(shard.count for shard in standing if shard.written >= recent[0].written)
    to_compute = (total - done) * sum(shard.computed for shard in recent) / appeared
    return Progress(what, done, total, found, per_second, to_compute / per_second)


def _slope(shards: Sequence[Shard]) -> float | None:
    """Computed a second: the line of least squares through (time, sum so far), None when there is none.

    Unlike a quotient it does not ask how much of the first round's work lies before the first shard.
    """
    if len(shards) < 2:
        return None
    times = [(shard.written - shards[0].written).total_seconds() for shard in shards]
    sums, so_far = [], 0
    for shard in shards:
        so_far += shard.computed
        sums.append(so_far)
    mean_time, mean_sum = sum(times) / len(times), sum(sums) / len(sums)
    spread = sum((time - mean_time) ** 2 for time in times)
    joint = sum((time - mean_time) * (total - mean_sum) for time, total in zip(times, sums, strict=True))
    return joint / spread if spread else None


class Extraction:
    """Looks at the extraction of a run: images, and those rejected."""

    def __init__(self, layout: RunLayout, open_storage: Callable[[str], Storage]) -> None:
        self._sample = open_storage(layout.sample)
        self._features = open_storage(layout.features)
        self._rejects = open_storage(layout.rejects)
        self._sizes: dict[int, int] = {}
        self._footers: dict[tuple[int, str], FeaturesShard] = {}

    def look(self, started: datetime, now: datetime) -> Progress:
        """Blocks. Raises JobError while there is no sample, or S3 does not answer."""
        if not self._sizes:
            marker = read_document(SampleMarker, self._sample)
            self._sizes = {shard.shard: shard.images for shard in marker.shards}
        # Rejects first, as they are written: those of a shard that stands are then all seen.
        noted = set(_by_number(self._rejects.list()))
        listing = list(self._features.list())
        noted |= set(_by_number(obj for obj in listing if _folder(obj) == REUSED))
        standing = _by_number(obj for obj in listing if not _folder(obj))
        self._read_footers({n: obj for n, obj in standing.items() if n in noted})
        shards = [self._shard(n, obj) for n, obj in standing.items() if n in self._sizes]
        return measure("images", shards, sum(self._sizes.values()), started, now, rejects=True)

    def _shard(self, number: int, obj: StoredObject) -> Shard:
        images, info = self._sizes[number], self._footers.get((number, obj.version))
        if info is None:  # nothing rejected or taken over: the sample's marker says it all
            return Shard(obj.written, images, images)
        return Shard(obj.written, images, images - info.reused, sum(info.rejects.values()))

    def _read_footers(self, standing: Mapping[int, StoredObject]) -> None:
        """Read the counts in the footers that are new; one that fails is read at the next look."""
        unread = [(n, obj) for n, obj in standing.items() if (n, obj.version) not in self._footers]
        if not unread:
            return

        def read(number: int, obj: StoredObject) -> FeaturesShard | None:
            try:
                metadata = self._features.parquet_metadata(shard_key(number), obj.size)
            except JobError:  # being replaced, or damaged: then the step computes it again
                return None
            return shard_info(metadata, FeaturesShard)

        with ThreadPoolExecutor(_READERS) as pool:
            for (number, obj), info in zip(unread, pool.map(lambda one: read(*one), unread), strict=True):
                if info is not None:
                    self._footers[number, obj.version] = info


class Reduction:
    """Looks at the PCA of a run: shards projected. Its first pass sums and writes nothing."""

    def __init__(self, layout: RunLayout, open_storage: Callable[[str], Storage]) -> None:
        self._features = open_storage(layout.features)
        self._pca = open_storage(layout.pca)
        self._wanted: set[int] = set()

    def look(self, started: datetime, now: datetime) -> Progress:
        """Blocks. Raises JobError while there are no features, or S3 does not answer."""
        if not self._wanted:
            self._wanted = {shard.shard for shard in read_document(FeaturesMarker, self._features).shards}
        began = started.replace(microsecond=0)
        # Those of an earlier PCA are written anew.
        standing = _by_number(obj for obj in self._pca.list() if obj.written >= began)
        shards = [Shard(obj.written, 1, 1) for n, obj in standing.items() if n in self._wanted]
        found = measure("shards", shards, len(self._wanted), started, now, rejects=False)
        return found if found.done else replace(found, phase="summing")


STAGES: dict[str, type[Extraction] | type[Reduction]] = {"extraction": Extraction, "pca": Reduction}


def _by_number(listing: Iterable[StoredObject]) -> dict[int, StoredObject]:
    numbers = ((shard_number(obj.key), obj) for obj in listing)
    return {number: obj for number, obj in numbers if number is not None}


def _folder(obj: StoredObject) -> str:
    return obj.key.rpartition("/")[0]
