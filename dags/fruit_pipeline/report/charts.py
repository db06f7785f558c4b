"""Geometry of the charts: coordinates in an SVG of 400 x 250 for lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 50, 392, 22, 206
"""Edges of the plot area; the texts of the axes are outside."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """A value of a chart: its position and its text."""

    x: float
    y: float
    text: str
    anchor: str = "start"  # of the text


@dataclass(frozen=True)
class Chart:
    """One series over a horizontal and a vertical axis."""

    x_name: str
    y_name: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    marks: list[Mark]
    bar: float = 0.0  # width of a mark as a bar; 0: a line
    rules: list[Mark] = field(default_factory=list)  # horizontal lines with a text
    chosen: list[Mark] = field(default_factory=list)  # vertical lines with a text

    @property
    def path(self) -> str:
        return " ".join(f"{mark.x},{mark.y}" for mark in self.marks)


def variance_by_component(ratio: Sequence[float]) -> Chart:
    """Share of the variance of each component, as bars."""
    count, top = len(ratio), _ceiling(max(ratio))
    step = (RIGHT - LEFT) / count
    marks = [
        Mark(_x(at + 0.5, count), _y(share, top), f"component {at + 1}: {_percent(share)}")
        for at, share in enumerate(ratio)
    ]
    ticks = [Tick(_x(number - 0.5, count), str(number)) for number in _whole_ticks(count)]
    return Chart(
        "component",
        "explained variance",
        ticks,
        _percent_ticks(top),
        marks,
        bar=max(round(step * 0.8, 2), 0.5),
        chosen=[Mark(marks[-1].x, marks[-1].y, f"k = {count}")],
    )


def cumulative_variance(ratio: Sequence[float], requested: float | None) -> Chart:
    """Share of the variance that the first components keep; ``requested``: the share to be kept."""
    count, total, marks = len(ratio), 0.0, []
    for at, share in enumerate(ratio):
        total += share
        marks.append(
            Mark(_x(at + 0.5, count), _y(min(total, 1), 1), f"{at + 1} components: {_percent(total)}")
        )
    ticks = [Tick(_x(number - 0.5, count), str(number)) for number in _whole_ticks(count)]
    rules = (
        [Mark(LEFT + 4, _y(requested, 1), f"asked for: {_percent(requested)}")]
        if requested is not None
        else []
    )
    chosen = [Mark(marks[-1].x, marks[-1].y, f"k = {count} keeps {_percent(total)}")]
    return Chart(
        "components kept", "variance kept", ticks, _percent_ticks(1), marks, rules=rules, chosen=chosen
    )


def accuracy_by_components(points: Sequence[tuple[int, float]], full: float | None, width: int) -> Chart:
    """Share of correct nearest neighbours by number of components (logarithmic); ``full``: all features."""
    most = max(points[-1][0], 2)

    def at(count: int) -> float:
        return round(LEFT + 10 + math.log(count) / math.log(most) * (RIGHT - LEFT - 20), 2)

    marks = [
        Mark(at(count), _y(share, 1), f"{count} components: {_percent(share)} right")
        for count, share in points
    ]
    ticks = [Tick(at(count), str(count)) for count, _ in points]
    if len(ticks) > 1 and ticks[-1].at - ticks[-2].at < 22:  # too close together
        del ticks[-2]
    rules = (
        [Mark(LEFT + 4, _y(full, 1), f"all {width:,} features: {_percent(full)}")] if full is not None else []
    )
    return Chart(
        "components (logarithmic)", "nearest neighbour right", ticks, _percent_ticks(1), marks, rules=rules
    )


def _x(value: float, count: int) -> float:
    return round(LEFT + value / count * (RIGHT - LEFT), 2)


def _y(share: float, top: float) -> float:
    return round(BOTTOM - share / top * (BOTTOM - TOP), 2)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 else f"{100 * share:.2g}%"


def _ceiling(share: float) -> float:
    """The next round share above: 1, 2 or 5 times a power of ten, at most 1."""
    power = 10.0 ** math.floor(math.log10(share)) if share > 0 else 0.01
    return min(next((step * power for step in (1, 2, 5, 10) if step * power >= share), 1.0), 1.0)


def _percent_ticks(top: float) -> list[Tick]:
    return [Tick(_y(top * part / 5, top), f"{100 * top * part / 5:.3g}%") for part in range(6)]


def _whole_ticks(count: int) -> list[int]:
    """1, some round numbers, and ``count``."""
    step = next(s for p in range(9) for s in (10**p, 2 * 10**p, 5 * 10**p) if count / s <= 6)
    inner = [number for number in range(step, count, step) if number > 1 and count - number >= step / 2]
    return sorted({1, *inner, count})
