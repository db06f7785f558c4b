"""A step that runs for a day, waited for by the real trigger on a clock that jumps: what the wait costs."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.emr import EmrHook

from fruit_pipeline import settings
from fruit_pipeline.dag import triggers
from fruit_pipeline.dag.triggers import StepTrigger
from fruit_pipeline.run.progress import ExtractionFollower
from image_features.contract import (
    FEATURES_SCHEMA,
    MARKER,
    REJECTS_SCHEMA,
    FeaturesShard,
    SampleMarker,
    SampleShard,
    shard_key,
)
from image_features.documents import to_json
from image_features.shards import parquet_bytes, write_shard
from image_features.storage import Storage

pytestmark = pytest.mark.slow

SHARDS, IMAGES = 1_000, 1_000_000
DAY = 24 * 3600
STARTED = datetime(2026, 1, 1, tzinfo=UTC)
REJECTING = 10  # each so many shards has a reject
POLL = round(settings.load({}).poll_seconds)


class Jump(selectors.SelectSelector):
    """Where the loop would wait, its clock jumps to the next thing to do."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class Day(asyncio.SelectorEventLoop):
    """A loop whose time is its selector's."""

    def __init__(self) -> None:
        self.clock = Jump()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


class Step:
    """EMR's answers, and the shards that the step has written by the loop's clock, evenly over the day."""

    def __init__(self, day: Day, root: Path) -> None:
        self.day, self.root = day, root
        self.describes = 0
        self.written = 0

    def now(self) -> datetime:
        return STARTED + timedelta(seconds=self.day.time())

    async def describe_step(self, **_: str) -> Any:
        self.describes += 1
        while self.written < min(SHARDS, int(self.day.time() * SHARDS / DAY)):
            self._write(self.written)
            self.written += 1
        state = "COMPLETED" if self.day.time() >= DAY else "RUNNING"
        clock = {"StartDateTime": STARTED}
        return {"Step": {"Name": "extract", "Status": {"State": state, "Timeline": clock}}}

    def _write(self, number: int) -> None:
        when = (STARTED + timedelta(seconds=(number + 1) * DAY / SHARDS)).timestamp()
        names = [f"features/{shard_key(number)}"]
        if number % REJECTING == 0:
            names.insert(0, f"rejects/{shard_key(number)}")
        for name in names:
            path = self.root / "made" / name
            os.utime(path, (when, when))
            path.rename(self.root / name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A run of 1,000 shards: its sample's marker, and the objects that its step will have written."""
    shards = [SampleShard(number, IMAGES // SHARDS, 1, "00") for number in range(SHARDS)]
    marker = SampleMarker(IMAGES, SHARDS, {"l": IMAGES}, 0, "s3://b/s", "00", shards)
    Storage(tmp_path / "sample", create=True).put(MARKER, to_json(marker))
    features = Storage(tmp_path / "made" / "features", create=True)
    rejects = Storage(tmp_path / "made" / "rejects", create=True)
    for number in range(SHARDS):
        reasons = {} if number % REJECTING else {"empty": 1}
        info = FeaturesShard(number, 1_000, 1_000 - len(reasons), reasons, "00")
        write_shard(features, FEATURES_SCHEMA, FEATURES_SCHEMA.empty_table().to_pydict(), info)
        if reasons:
            rejects.put(shard_key(number), parquet_bytes(REJECTS_SCHEMA.empty_table()))
    for folder in ("features", "rejects"):
        (tmp_path / folder).mkdir()
    return tmp_path


@pytest.fixture
def day() -> Iterator[Day]:
    loop = Day()
    yield loop
    loop.close()


@pytest.fixture
def step(day: Day, root: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    made = Step(day, root)

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return made.now()

    @asynccontextmanager
    async def connection() -> AsyncIterator[Step]:
        yield made

    async def get(_: EmrHook) -> Any:
        return connection()

    async def here(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    monkeypatch.setattr(EmrHook, "get_async_conn", get)
    monkeypatch.setattr(triggers, "datetime", Clock)
    monkeypatch.setattr(asyncio, "to_thread", here)  # the clock would not wait for a thread
    return made


def test_a_day_of_waiting_costs_little_and_nothing_grows(
    step: Step, day: Day, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger=triggers.__name__)
    looks: list[float] = []
    held: dict[int, int] = {}
    look = ExtractionFollower.poll

    def noted(self: ExtractionFollower, *arguments: Any) -> Any:
        found = look(self, *arguments)
        looks.append(day.time())
        held[int(day.time() // 3600)] = tracemalloc.get_traced_memory()[0]
        return found

    monkeypatch.setattr(ExtractionFollower, "poll", noted)
    trigger = StepTrigger(
        job_flow_id="j-1",
        step_id="s-1",
        stage="extraction",
        run_uri=f"file://{root}",
        waiter_delay=POLL,
        attempts=10 * DAY // POLL,
        aws_conn_id=None,
        region_name="eu-west-3",
    )

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    tracemalloc.start()
    try:
        (event,) = day.run_until_complete(events())
    finally:
        tracemalloc.stop()
    lines = [record.getMessage() for record in caplog.records if record.name == triggers.__name__]
    print(f"{step.describes} DescribeStep, {len(looks)} looks, {len(lines)} lines, bytes by hour {held}")
    assert event["status"] == "success"
    assert step.describes == DAY // POLL + 1
    # Some 30 in the first minutes, then six an hour; each look is a listing of two prefixes.
    assert 200 < len(looks) < 320
    assert len(lines) <= len(looks) + 3
    assert len(set(lines)) == len(lines)
    assert lines[-1].startswith("images 1,000,000 / 1,000,000")
    # Of a shard with rejects its counts are kept, a hundred of them; the log of this test holds its lines.
    assert held[23] - held[1] < 500_000
