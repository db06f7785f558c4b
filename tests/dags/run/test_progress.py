"""Progress is measured by the objects of a run and their times, from a listing to a line of the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fruit_pipeline.run.progress import (
    ExtractionFollower,
    FinishedShard,
    Progress,
    ReductionFollower,
    duration,
    measure,
    poll_interval,
)
from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    FeaturesShard,
    RunLayout,
    SampleMarker,
    reused_key,
    shard_key,
)
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.shards import write_shard
from image_features.storage import Storage

START = datetime(2026, 11, 21, 10, 0, 0, 700_000, UTC)
WHOLE = START.replace(microsecond=0)


def at(seconds: float) -> datetime:
    return WHOLE + timedelta(seconds=seconds)


def shards(*seconds: float, count: int = 1000, computed: int | None = None) -> list[FinishedShard]:
    return [FinishedShard(at(s), count, count if computed is None else computed) for s in seconds]


def progress_of(
    finished: list[FinishedShard], now: float, total: int = 100_000, rejects: bool = True
) -> Progress:
    return measure("images", finished, total, START, at(now), count_rejects=rejects)


def test_a_line_has_counts_pace_time_left_and_rejects() -> None:
    line = Progress("images", 12_000, 67_692, 3, 812.4, 68.6)
    assert str(line) == "images 12,000 / 67,692 · 812 images/s · 1 min 9 s left · rejects 3"
    assert (
        str(Progress("shards", 3, 40, None, 0.52, 71.2)) == "shards 3 / 40 · 0.5 shards/s · 1 min 11 s left"
    )


@pytest.mark.parametrize(("per_second", "words"), [(0.26, "0.3"), (9.96, "10"), (1234.5, "1,234")])
def test_a_pace_has_two_digits_or_more(per_second: float, words: str) -> None:
    assert str(Progress("images", 1, 9, per_second=per_second)) == f"images 1 / 9 · {words} images/s"


def test_what_is_not_known_is_not_said() -> None:
    assert str(progress_of([], 300)) == "images 0 / 100,000 · rejects 0"
    assert str(progress_of([], 300, rejects=False)) == "images 0 / 100,000"


def test_a_steady_pace_is_told_and_the_time_left_follows_from_it() -> None:
    found = progress_of(shards(*range(20, 101, 10)), 104)
    assert found.per_second == pytest.approx(100)
    assert found.seconds_left == pytest.approx(91_000 / 100)
    assert str(found) == "images 9,000 / 100,000 · 100 images/s · 15 min 10 s left · rejects 0"


def test_the_start_of_spark_does_not_slow_the_pace_down() -> None:
    assert progress_of(shards(*range(60, 181, 10)), 181).per_second == pytest.approx(100)


def test_no_pace_is_told_from_the_first_round_of_several_cores() -> None:
    """Four cores that take 20 s a shard, a second apart: 200 images/s, not 1,000."""
    first, second = [30, 31, 32, 33], [50, 51, 52, 53]
    assert progress_of(shards(*first), 34).per_second is None
    assert progress_of(shards(*first, *second), 54).per_second is None
    rounds = [start + core for start in (30, 50, 70, 90) for core in range(4)]
    assert progress_of(shards(*rounds), 94).per_second == pytest.approx(200, rel=0.05)


def test_one_shard_or_one_second_tells_no_pace() -> None:
    assert progress_of(shards(10), 11).per_second is None
    assert progress_of(shards(1, 1, 1, 2), 3).per_second is None


def test_shards_that_an_earlier_attempt_left_are_done_but_no_part_of_the_pace() -> None:
    stood = shards(*range(-900, -800))
    assert progress_of(stood, 30, 200_000) == Progress("images", 100_000, 200_000, 0)
    found = progress_of(stood + shards(*range(20, 101, 10)), 101, 200_000)
    assert found.done == 109_000
    assert found.per_second == pytest.approx(100)


def test_a_shard_of_the_second_in_which_the_step_began_is_its_own() -> None:
    """A listing has whole seconds: 10:00:00 may be after 10:00:00.7."""
    assert progress_of(shards(0, 10, 20, 30), 31).per_second == pytest.approx(100)


def test_features_taken_over_from_an_earlier_run_are_no_part_of_the_pace() -> None:
    found = progress_of(shards(*range(20, 101, 10), computed=100), 101)
    assert found.per_second == pytest.approx(10)
    # As large a share of what is left will be taken over: 10 s a shard still.
    assert found.seconds_left == pytest.approx(910)
    whole = progress_of(shards(5, 6, 7, 8, 20, computed=0), 21)
    assert (whole.done, whole.per_second) == (5000, None)


def test_the_pace_is_that_of_the_last_minutes() -> None:
    slow, fast = range(20, 3600, 10), range(3600, 4801, 5)
    found = progress_of(shards(*slow, *fast), 4801, 10**6)
    assert found.per_second == pytest.approx(200, rel=0.01)


def test_shards_slower_than_the_window_still_have_a_pace() -> None:
    found = progress_of(shards(*range(900, 4501, 900)), 4600)
    assert found.per_second == pytest.approx(1000 / 900)


def test_when_nothing_comes_any_more_that_is_said_in_place_of_a_pace() -> None:
    found = progress_of(shards(*range(20, 101, 10)), 400)
    assert str(found) == "images 9,000 / 100,000 · nothing new for 5 min 0 s · rejects 0"
    assert progress_of(shards(*range(20, 101, 10)), 400, total=9000).quiet_seconds is None, "it is done"


def test_at_the_end_no_time_is_left() -> None:
    line = str(progress_of(shards(*range(20, 101, 10)), 104, total=9000))
    assert line == "images 9,000 / 9,000 · 100 images/s · rejects 0"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.6, "1 min 0 s"), (69, "1 min 9 s"), (3599.7, "1 h 0 min"), (90_000, "25 h 0 min")],
)
def test_durations_are_short(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(("hours", "most"), [(1 / 20, 40), (1, 150), (24, 350)])
@pytest.mark.parametrize("poll", [1, 20])
def test_a_long_step_leaves_a_short_log(hours: float, most: int, poll: int) -> None:
    elapsed, pauses = 0.0, []
    while elapsed < hours * 3600:
        pauses.append(poll_interval(elapsed, poll))
        elapsed += pauses[-1]
    assert len(pauses) <= most
    assert min(pauses) == max(poll, 5)
    assert max(pauses) <= 600, "a line every ten minutes at least"
    assert pauses == sorted(pauses)


# From objects


@pytest.fixture
def layout(run: Path) -> RunLayout:
    """A finished run, of which a test takes away."""
    return RunLayout(f"file://{run}")


def open_storage(uri: str) -> Storage:
    return Storage(uri, create=True)


def written(layout: RunLayout, moment: datetime) -> None:
    """Give everything below the features and the PCA a time."""
    for uri in (layout.features, layout.pca):
        for path in Path(uri.removeprefix("file://")).rglob("*.*"):
            os.utime(path, (moment.timestamp(), moment.timestamp()))


def sizes(layout: RunLayout) -> dict[int, int]:
    return {s.shard: s.images for s in read_document(SampleMarker, Storage(layout.sample)).shards}


def test_images_and_rejects_are_counted_by_the_shards_that_stand(layout: RunLayout) -> None:
    written(layout, at(10))
    total = sum(sizes(layout).values())
    assert ExtractionFollower(layout, open_storage).poll(START, at(11)) == Progress("images", total, total, 2)
    with_rejects = [obj.key for obj in Storage(layout.rejects).list()]
    assert 1 <= len(with_rejects) <= 2
    features = Storage(layout.features)
    features.delete(with_rejects)
    lost = sum(sizes(layout)[n] for n in sizes(layout) if shard_key(n) in with_rejects)
    found = ExtractionFollower(layout, open_storage).poll(START, at(11))
    assert (found.done, found.rejects) == (total - lost, 0), "a shard is done when its features stand"


def test_a_poll_sees_what_came_since_the_last_one_and_reads_no_footer_twice(
    layout: RunLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    inner: Callable[..., dict[str, str]] = Storage.parquet_metadata

    def note(self: Storage, key: str, size: int) -> dict[str, str]:
        read.append(key)
        return inner(self, key, size)

    monkeypatch.setattr(Storage, "parquet_metadata", note)
    features = Storage(layout.features)
    kept = {key: features.get(key).to_pybytes() for key in map(shard_key, sizes(layout))}
    features.delete(kept)
    follower = ExtractionFollower(layout, open_storage)
    done = [follower.poll(START, at(1)).done]
    for key, data in kept.items():
        features.put(key, data)
        done.append(follower.poll(START, at(1)).done)
    assert done == [sum(list(sizes(layout).values())[:n]) for n in range(len(kept) + 1)]
    assert sorted(read) == sorted(obj.key for obj in Storage(layout.rejects).list())


def test_what_lies_below_the_features_in_a_folder_is_no_shard(layout: RunLayout) -> None:
    features = Storage(layout.features)
    (first, images), *_ = sizes(layout).items()
    features.delete(map(shard_key, sizes(layout)))
    features.put(reused_key(first), b"a list")
    assert ExtractionFollower(layout, open_storage).poll(START, at(1)).done == 0
    info = FeaturesShard(first, images, images - 1, {"empty": 1}, "f", reused=images - 2)
    write_shard(features, FEATURES_SCHEMA, {name: [] for name in FEATURES_SCHEMA.names}, info)
    follower = ExtractionFollower(layout, open_storage)
    assert follower.poll(START, at(1)).rejects == 1
    (obj,) = [o for o in features.list() if o.key == shard_key(first)]
    assert follower._shard(first, obj) == FinishedShard(obj.written, images, 2, 1)


def test_a_damaged_shard_is_counted_until_the_step_replaces_it(layout: RunLayout) -> None:
    (key, *_) = [obj.key for obj in Storage(layout.rejects).list()]
    Storage(layout.features).put(key, b"no parquet")
    found = ExtractionFollower(layout, open_storage).poll(START, at(1))
    assert found.done == found.total


def test_without_a_sample_a_poll_says_what_is_missing(layout: RunLayout) -> None:
    Storage(layout.sample).delete([MARKER])
    with pytest.raises(JobError, match="sample has no _SUCCESS"):
        ExtractionFollower(layout, open_storage).poll(START, at(1))


def test_the_projected_shards_are_those_that_this_step_wrote(layout: RunLayout) -> None:
    count = len(sizes(layout))
    assert count > 1
    written(layout, at(-60))
    follower = ReductionFollower(layout, open_storage)
    assert str(follower.poll(START, at(1))) == f"shards 0 / {count} · summing"
    pca = Storage(layout.pca)
    first = shard_key(0)
    pca.put(first, pca.get(first).to_pybytes())  # now, long after START
    found = follower.poll(START, datetime.now(UTC))
    assert (found.done, found.phase) == (1, "")
