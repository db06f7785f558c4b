"""Measures how often nearest neighbours have the same label, with all features and with the embeddings.

Photos of one object are often frames of a film: neighbouring file numbers are near duplicates, and a
nearest neighbour that is the next frame proves nothing. So the images of each label, in natural order
of their names, are cut in the middle into two halves; the neighbours of an image are searched in the other
half, of its own label and of all others. Labels with a single image are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 5

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Neighbours:
    """The nearest images (Euclidean) of each query image, nearest first."""

    queries: Numbers  # (n,), rows
    nearest: Numbers  # (n, k), rows; k is at most NEIGHBOURS
    distances: npt.NDArray[np.float64]  # (n, k)

    @property
    def first(self) -> dict[int, int]:
        """The row of the nearest image, by the row of the query."""
        return dict(zip(self.queries.tolist(), self.nearest[:, :1].ravel().tolist(), strict=True))

    def right(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each of the nearest images has the label of its query, (n, k)."""
        return labels[self.nearest] == labels[self.queries][:, None]


@dataclass(frozen=True)
class Score:
    """Quality of vectors of one width. Shares are 0 to 1; None where there is nothing to measure."""

    width: int
    first_right: float | None  # share of queries whose nearest neighbour has their label
    any_right: float | None  # share of queries with their label among the NEIGHBOURS nearest
    with_duplicates: float | None  # first_right, when searched in both halves: near duplicates count
    silhouette: float | None  # -1 to 1


@dataclass(frozen=True)
class Quality:
    """The quality of the rows of one report."""

    queries: int
    alone: int  # labels with one image, left out
    chance: float | None  # share of right answers if neighbours were drawn at random from the other half
    full: Score  # of all features
    reduced: Score  # of the embeddings
    by_components: list[tuple[int, float]]  # number of components, first_right with so many
    neighbours: Neighbours  # of the embeddings


def measure(images: Sequence[str], labels: Sequence[str], features: Floats, embeddings: Floats) -> Quality:
    """Measure the quality of rows, with ``features`` (rows, width) and ``embeddings`` (rows, components)."""
    names = np.array(labels, object)
    half = halves(images, labels)
    nearest = neighbours(embeddings, half)
    sides = [Counter(names[half == side].tolist()) for side in (0, 1)]
    pairs = sides[0].total() * sides[1].total()
    return Quality(
        queries=len(nearest.queries),
        alone=int((half < 0).sum()),
        chance=sum(n * sides[1][label] for label, n in sides[0].items()) / pairs if pairs else None,
        full=_score(features, names, half, neighbours(features, half)),
        reduced=_score(embeddings, names, half, nearest),
        by_components=[
            (count, share)
            for count in _counts(embeddings.shape[1])
            if (share := _first_right(names, neighbours(embeddings[:, :count], half, 1))) is not None
        ],
        neighbours=nearest,
    )


def halves(images: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int8]:
    """For each image the half of its label that it is in, 0 or 1; -1 for the only image of a label."""
    groups: dict[str, list[int]] = {}
    for row in sorted(range(len(images)), key=lambda row: natural(images[row])):
        groups.setdefault(labels[row], []).append(row)
    half = np.full(len(images), -1, np.int8)
    for rows in groups.values():
        if len(rows) > 1:
            half[rows[: len(rows) // 2]] = 0
            half[rows[len(rows) // 2 :]] = 1
    return half


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which r2 comes before r10."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]


def neighbours(vectors: Floats, half: npt.NDArray[np.int8], count: int = NEIGHBOURS) -> Neighbours:
    """For each row of a half the ``count`` nearest rows of the other half, or as many as there are."""
    from sklearn.neighbors import NearestNeighbors

    sides = [np.flatnonzero(half == side) for side in (0, 1)]
    count = min(count, *map(len, sides))
    if not count:
        return Neighbours(np.empty(0, np.intp), np.empty((0, 0), np.intp), np.empty((0, 0)))
    nearest, distances = [], []
    for queries, candidates in (sides, sides[::-1]):
        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors[candidates])
        distance, at = search.kneighbors(vectors[queries])
        nearest.append(candidates[at])
        distances.append(distance)
    rows = np.concatenate(sides)
    order = np.argsort(rows)
    return Neighbours(rows[order], np.concatenate(nearest)[order], np.concatenate(distances)[order])


def confusion_counts(labels: Sequence[str], neighbours: Neighbours) -> Counter[tuple[str, str]]:
    """Number of queries by their own label and the label of their nearest neighbour."""
    return Counter((labels[query], labels[nearest]) for query, nearest in neighbours.first.items())


def _first_right(names: npt.NDArray[Any], nearest: Neighbours) -> float | None:
    return float(nearest.right(names)[:, 0].mean()) if len(nearest.queries) else None


def _score(
    vectors: Floats, names: npt.NDArray[Any], half: npt.NDArray[np.int8], nearest: Neighbours
) -> Score:
    right = nearest.right(names)
    return Score(
        width=vectors.shape[1],
        first_right=_first_right(names, nearest),
        any_right=float(right.any(axis=1).mean()) if len(right) else None,
        with_duplicates=_with_duplicates(vectors[half >= 0], names[half >= 0]),
        silhouette=_silhouette(vectors, names),
    )


def _with_duplicates(vectors: Floats, names: npt.NDArray[Any]) -> float | None:
    from sklearn.neighbors import NearestNeighbors

    if len(vectors) < 2:
        return None
    # Without an argument, no row is its own neighbour.
    at = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(vectors).kneighbors(return_distance=False)
    return float((names[at[:, 0]] == names).mean())


def _silhouette(vectors: Floats, names: npt.NDArray[Any]) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(set(names.tolist())) < len(names):
        return None
    _, numbers = np.unique(names.astype(object), return_inverse=True)
    return float(silhouette_score(vectors, numbers))


def _counts(components: int) -> list[int]:
    """Numbers of components to measure: 1, 2, 5, 10, 20, 50 ... and all."""
    steps = [digit * 10**power for power in range(4) for digit in (1, 2, 5)]
    return [*(step for step in steps if step < components), components]
