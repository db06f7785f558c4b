"""What the page shows of rows and their neighbours: a gallery, confusions, labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fruit_pipeline.report.quality import Neighbours, confusions
from fruit_pipeline.report.rows import Rows

AT_RANDOM, MISTAKEN = 16, 8
"""Rows of the gallery: of all images, and of those whose nearest neighbour has another label."""

PAIRS = 15
MATRIX = 16
LABELS = 300
"""Confusions in the table, labels in the matrix, rows in the table of labels."""


@dataclass(frozen=True)
class Match:
    """A row that was found for another."""

    row: int
    right: bool
    distance: float


@dataclass(frozen=True)
class Asked:
    """A row that was asked about, with its nearest rows."""

    row: int
    found: list[Match]
    mistaken: bool  # drawn from the mistaken ones


@dataclass(frozen=True)
class Pair:
    """A label that was taken for another one, with an example."""

    label: str
    taken_for: str
    count: int
    share: float  # of the label's images that were asked about
    row: int
    found: int


@dataclass(frozen=True)
class LabelScore:
    """How often the nearest neighbour of a label's images is right."""

    label: str
    asked: int
    right: int
    taken_for: list[tuple[str, int]]  # other labels, most frequent first

    @property
    def share(self) -> float:
        return self.right / self.asked


@dataclass(frozen=True)
class Matrix:
    """Counts of labels (rows) taken for labels (columns); ``others``: for labels that have no column."""

    labels: list[str]
    counts: list[list[int]]
    others: list[int]
    asked: list[int]


def gallery(drawn: Rows, nearest: Neighbours, rng: np.random.Generator) -> list[Asked]:
    """Some rows at random, then some of the mistaken, none twice."""
    labels = np.array(drawn.labels, object)
    right = nearest.right(labels)
    order = rng.permutation(len(nearest.asked))
    chosen = order[:AT_RANDOM].tolist()
    wrong = [at for at in order[AT_RANDOM:].tolist() if not right[at, 0]][:MISTAKEN]
    return [
        Asked(
            row=int(nearest.asked[at]),
            found=[
                Match(int(row), bool(is_right), float(distance))
                for row, is_right, distance in zip(
                    nearest.found[at], right[at], nearest.distances[at], strict=True
                )
            ],
            mistaken=mistaken,
        )
        for group, mistaken in ((chosen, False), (wrong, True))
        for at in group
    ]


def pairs(drawn: Rows, nearest: Neighbours) -> list[Pair]:
    """The most frequent confusions, each with its nearest example."""
    counts = confusions(drawn.labels, nearest)
    asked = _asked(counts)
    examples: dict[tuple[str, str], tuple[float, int, int]] = {}
    for row, found, distance in zip(
        nearest.asked.tolist(), nearest.found[:, :1].ravel(), nearest.distances[:, :1].ravel(), strict=True
    ):
        key = drawn.labels[row], drawn.labels[found]
        examples[key] = min(examples.get(key, (np.inf, -1, -1)), (float(distance), row, int(found)))
    return [
        Pair(label, other, count, count / asked[label], *examples[label, other][1:])
        for (label, other), count in _mistakes(counts)[:PAIRS]
    ]


def matrix(drawn: Rows, nearest: Neighbours) -> Matrix:
    """Confusions among the labels that take part in the most frequent ones, alphabetical."""
    counts = confusions(drawn.labels, nearest)
    chosen: list[str] = []
    for pair, _ in _mistakes(counts):
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) > MATRIX:
            break
        chosen += new
    labels, asked = sorted(chosen), _asked(counts)
    cells = [[counts[label, other] for other in labels] for label in labels]
    return Matrix(
        labels,
        cells,
        [asked[label] - sum(row) for label, row in zip(labels, cells, strict=True)],
        [asked[label] for label in labels],
    )


def label_scores(drawn: Rows, nearest: Neighbours) -> list[LabelScore]:
    """Every label that was asked about, the worst first."""
    counts = confusions(drawn.labels, nearest)
    taken: dict[str, list[tuple[str, int]]] = {}
    for (label, other), count in _mistakes(counts):
        taken.setdefault(label, []).append((other, count))
    scores = [
        LabelScore(label, number, counts[label, label], taken.get(label, []))
        for label, number in _asked(counts).items()
    ]
    return sorted(scores, key=lambda score: (score.share, score.label))


def images_of(shown: Iterable[Asked | Pair]) -> list[int]:
    """Rows whose pictures are shown."""
    found: list[int] = []
    for one in shown:
        found += [one.row, one.found] if isinstance(one, Pair) else [one.row, *(m.row for m in one.found)]
    return found


def _asked(counts: Counter[tuple[str, str]]) -> Counter[str]:
    asked: Counter[str] = Counter()
    for (label, _), count in counts.items():
        asked[label] += count
    return asked


def _mistakes(counts: Counter[tuple[str, str]]) -> Sequence[tuple[tuple[str, str], int]]:
    """Pairs of two labels, most frequent first, then alphabetical."""
    wrong = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1]]
    return sorted(wrong, key=lambda item: (-item[1], item[0]))
