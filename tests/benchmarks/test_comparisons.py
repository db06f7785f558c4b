"""What the tables say when a compared side is wrong."""

from __future__ import annotations

from benchmarks import goals
from benchmarks.notebook import WRONG, EndToEnd, compare, variance_rows
from benchmarks.report import Goal


def test_no_goal_is_claimed_on_a_wrong_answer() -> None:
    ours, right, wrong = EndToEnd(10, 15, 0.8), EndToEnd(40, 60, 0.8004), EndToEnd(40, 60, 0.3)
    goal = Goal(3)
    first = compare("notebook", 200, [ours], [right], goal, None, 0.8)[0]
    assert (first.ratio, first.reached) == (4, True)
    first = compare("notebook", 200, [ours], [wrong], goal, None, 0.8)[0]
    assert (first.ratio, first.reached) == (4, None)


def test_each_side_is_held_against_the_exact_variance() -> None:
    ours, theirs = variance_rows("notebook", 200, 0.8, 0.3, exact=0.8)
    assert (ours.reached, WRONG in ours.note) == (True, False)
    assert (theirs.reached, WRONG in theirs.note) == (None, True)
    ours, theirs = variance_rows("notebook", 200, 0.3, 0.8, exact=0.8)
    assert (ours.reached, WRONG in theirs.note) == (False, False)


def test_a_first_export_counts_in_a_row_of_its_own() -> None:
    ours, theirs = EndToEnd(10, None, 0.8), EndToEnd(40, None, 0.8)
    rows = compare("notebook", 200, [ours], [theirs], goals.NOTEBOOK_AS_PUBLISHED, 10.0, 0.8)
    assert [(r.ours, r.ratio) for r in rows[:2]] == [(10, 4), (20, 2)]
    assert not any("CPU" in r.what for r in rows)
