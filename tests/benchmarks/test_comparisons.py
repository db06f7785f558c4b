"""The rows of two compared sides, also when one of them is wrong."""

from __future__ import annotations

import pytest

from benchmarks import goals
from benchmarks.notebook import WRONG, EndToEnd, compare, variance_rows
from benchmarks.precision import quality_rows
from benchmarks.report import Goal
from fruit_pipeline.model.quantise import Quality


def test_the_row_of_a_wrong_answer_has_no_goal() -> None:
    ours, right, wrong = EndToEnd(10, 15, 0.8), EndToEnd(40, 60, 0.8004), EndToEnd(40, 60, 0.3)
    goal = Goal(3)
    first = compare("notebook", 200, [ours], [right], goal, None, 0.8)[0]
    assert (first.ratio, first.reached) == (4, True)
    first = compare("notebook", 200, [ours], [wrong], goal, None, 0.8)[0]
    assert (first.ratio, first.reached) == (4, None)


def test_each_side_is_compared_with_the_exact_variance() -> None:
    [row] = variance_rows("notebook", 200, 0.8, 0.3, exact=0.8)
    assert (row.reached, WRONG in row.note) == (True, True)
    [row] = variance_rows("notebook", 200, 0.3, 0.8, exact=0.8)
    assert (row.reached, WRONG in row.note) == (False, False)


def test_the_first_export_has_a_row_of_its_own() -> None:
    ours, theirs = EndToEnd(10, None, 0.8), EndToEnd(40, None, 0.8)
    rows = compare("notebook", 200, [ours], [theirs], None, 10.0, 0.8)
    assert [(r.ours, r.ratio) for r in rows[:2]] == [(10, 4), (20, 2)]
    assert not any("CPU" in r.what for r in rows)


def test_a_side_that_ran_less_often_is_compared_in_its_rounds() -> None:
    ours = [EndToEnd(seconds, None, 0.8) for seconds in (10, 20, 30)]
    first = compare("notebook", 200, ours, [EndToEnd(40, None, 0.8)], None, None, 0.8)[0]
    assert (first.ours, first.ratio, first.repeats) == (10, 4, 1)


def test_goals_depend_on_the_size() -> None:
    by_size = [goals.at(goals.NOTEBOOK_AS_PUBLISHED, size) for size in (400, 2_000, 9_999, 10_000, 50_000)]
    assert by_size == [None, Goal(12), Goal(12), Goal(15), Goal(15)]


def test_a_less_precise_int8_must_be_faster() -> None:
    assert (goals.int8_speed(0.985).bound, goals.int8_speed(0.97).bound) == (1.8, 2.2)


def test_int8_rows_show_the_loss() -> None:
    quality = Quality(0, 400, 0.97, 0.9, 0.95, 0.94, 0.99, 50, 0.8, 0.79)
    cosine, neighbours, _ = quality_rows(400, quality)
    assert (cosine.ours, cosine.reached) == (0.97, True)
    assert neighbours.ratio == pytest.approx(0.01)
    assert neighbours.reached is False
