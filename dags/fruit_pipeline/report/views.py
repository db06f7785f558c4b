"""What the page shows of neighbours: a gallery of examples, confusions, and a score for each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fruit_pipeline.report.quality import Neighbours, confusion_counts
from fruit_pipeline.report.rows import Rows

AT_RANDOM, MISTAKEN = 16, 8
"""Gallery rows: of any images, and of images whose nearest neighbour has another label."""

CONFUSIONS = 15
MATRIX = 16
LABELS = 300
"""Rows of the table of confusions, labels of the matrix, rows of the table of labels."""


@dataclass(frozen=True)
class Match:
    """A neighbour of a query."""

    row: int
    right: bool
    distance: float


@dataclass(frozen=True)
class GalleryRow:
    """A query with its nearest neighbours."""

    row: int
    neighbours: list[Match]
    mistaken: bool  # drawn from the queries whose nearest neighbour has another label


@dataclass(frozen=True)
class Confusion:
    """A label that was taken for another one, with the nearest pair as an example."""

    label: str
    taken_for: str
    count: int
    share: float  # of the label's queries
    row: int
    neighbour: int


@dataclass(frozen=True)
class LabelScore:
    """How often the nearest neighbour of a label's queries is right."""

    label: str
    queries: int
    right: int
    taken_for: list[tuple[str, int]]  # other labels, most frequent first

    @property
    def share(self) -> float:
        return self.right / self.queries


@dataclass(frozen=True)
class ConfusionMatrix:
    """How often labels (rows) were taken for labels (columns)."""

    labels: list[str]
    counts: list[list[int]]
    others: list[int]  # how often each was taken for a label that has no column
    totals: list[int]  # queries of each label


def gallery(drawn: Rows, neighbours: Neighbours, rng: np.random.Generator) -> list[GalleryRow]:
    """Random queries, then random ones whose nearest neighbour has another label, none twice."""
    labels = np.array(drawn.labels, object)
    right = neighbours.right(labels)
    order = rng.permutation(len(neighbours.queries))
    chosen = order[:AT_RANDOM].tolist()
    wrong = [at for at in order[AT_RANDOM:].tolist() if not right[at, 0]][:MISTAKEN]
    return [
        GalleryRow(
            row=int(neighbours.queries[at]),
            neighbours=[
                Match(int(row), bool(is_right), float(distance))
                for row, is_right, distance in zip(
                    neighbours.nearest[at], right[at], neighbours.distances[at], strict=True
                )
            ],
            mistaken=mistaken,
        )
        for group, mistaken in ((chosen, False), (wrong, True))
        for at in group
    ]


def confusions(drawn: Rows, neighbours: Neighbours) -> list[Confusion]:
    """The most frequent confusions, each with its nearest pair as an example."""
    counts = confusion_counts(drawn.labels, neighbours)
    queries = _queries_of(counts)
    examples: dict[tuple[str, str], tuple[float, int, int]] = {}
    distances = neighbours.distances[:, :1].ravel().tolist()
    for (row, nearest), distance in zip(neighbours.first.items(), distances, strict=True):
        key = drawn.labels[row], drawn.labels[nearest]
        examples[key] = min(examples.get(key, (np.inf, -1, -1)), (distance, row, nearest))
    return [
        Confusion(label, other, count, count / queries[label], *examples[label, other][1:])
        for (label, other), count in _mistakes(counts)[:CONFUSIONS]
    ]


def matrix(drawn: Rows, neighbours: Neighbours) -> ConfusionMatrix:
    """The confusion matrix of the labels in the most frequent confusions, in alphabetical order."""
    counts = confusion_counts(drawn.labels, neighbours)
    chosen: list[str] = []
    for pair, _ in _mistakes(counts):
        new = [label for label in pair if label not in chosen]
        if len(chosen) + len(new) > MATRIX:
            break
        chosen += new
    labels, queries = sorted(chosen), _queries_of(counts)
    cells = [[counts[label, other] for other in labels] for label in labels]
    return ConfusionMatrix(
        labels,
        cells,
        [queries[label] - sum(row) for label, row in zip(labels, cells, strict=True)],
        [queries[label] for label in labels],
    )


def label_scores(drawn: Rows, neighbours: Neighbours) -> list[LabelScore]:
    """The score of every label that has queries, the worst first."""
    counts = confusion_counts(drawn.labels, neighbours)
    taken: dict[str, list[tuple[str, int]]] = {}
    for (label, other), count in _mistakes(counts):
        taken.setdefault(label, []).append((other, count))
    scores = [
        LabelScore(label, number, counts[label, label], taken.get(label, []))
        for label, number in _queries_of(counts).items()
    ]
    return sorted(scores, key=lambda score: (score.share, score.label))


def rows_of(items: Iterable[GalleryRow | Confusion]) -> list[int]:
    """Rows whose pictures are shown."""
    rows: list[int] = []
    for item in items:
        rows.append(item.row)
        rows += [item.neighbour] if isinstance(item, Confusion) else [match.row for match in item.neighbours]
    return rows


def _queries_of(counts: Counter[tuple[str, str]]) -> Counter[str]:
    """Number of queries by their label."""
    queries: Counter[str] = Counter()
    for (label, _), count in counts.items():
        queries[label] += count
    return queries


def _mistakes(counts: Counter[tuple[str, str]]) -> Sequence[tuple[tuple[str, str], int]]:
    """Pairs of two labels, most frequent first, then alphabetical."""
    wrong = [(pair, count) for pair, count in counts.items() if pair[0] != pair[1]]
    return sorted(wrong, key=lambda item: (-item[1], item[0]))
