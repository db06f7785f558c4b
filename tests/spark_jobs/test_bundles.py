"""Shards are cut into tasks that give each shard a neighbour and let the cores finish together."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from image_features import extraction
from image_features.contract import SampleMarker
from image_features.documents import read_document, to_json
from image_features.extraction import bundles
from image_features.storage import Storage
from support.runs import Run
from support.spark import LocalContext, LocalRdd

SLOTS = st.integers(1, 128)


@settings(deadline=None)
@given(count=st.integers(0, 2000), slots=SLOTS)
def test_every_shard_is_in_one_task_in_order(count: int, slots: int) -> None:
    assert [shard for part in bundles(count, slots) for shard in part] == list(range(count))


@settings(deadline=None)
@given(count=st.integers(1, 2000), slots=SLOTS)
def test_tasks_get_shorter_and_the_last_are_single_shards(count: int, slots: int) -> None:
    sizes = [len(part) for part in bundles(count, slots)]
    assert sizes == sorted(sizes, reverse=True)
    assert all(size == 1 for size in sizes[-min(slots, len(sizes)) :])


@settings(deadline=None)
@given(count=st.integers(1, 1000), slots=SLOTS)
def test_cores_of_one_speed_finish_within_a_shard_of_each_other(count: int, slots: int) -> None:
    """As Spark hands out tasks: in order, to whichever core is free."""
    busy = [0] * slots
    for part in bundles(count, slots):
        busy[busy.index(min(busy))] += len(part)
    assert max(busy) - min(busy) <= 1


def test_most_shards_of_a_large_run_have_a_neighbour() -> None:
    parts = bundles(68, 8)
    assert len(parts) < 40
    assert sum(len(part) for part in parts if len(part) > 1) >= 48


def test_tasks_are_cut_for_the_cluster_and_not_for_the_executors_that_have_registered(run: Run) -> None:
    marker = read_document(SampleMarker, Storage(run.sample))
    Storage(run.sample).put("_SUCCESS", to_json(replace(marker, cores=4)))
    cut: list[int] = []

    class Context(LocalContext):
        defaultParallelism = 1

        def parallelize(self, rows: list[Any], slices: int) -> LocalRdd:
            cut.append(len(rows))
            return super().parallelize(rows, slices)

    extraction.run(
        SimpleNamespace(sparkContext=Context()), str(run.sample), str(run.model), str(run.features)
    )
    assert cut == [len(bundles(4, 4))]
