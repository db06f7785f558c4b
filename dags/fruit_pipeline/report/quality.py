"""How well neighbours tell labels, with all features and with the reduced ones.

Photos of one thing often come as frames of a film: neighbouring file numbers are near duplicates, and
a nearest neighbour that is the next frame proves nothing. So the images of each label, in natural order
of their names, are cut in the middle into two blocks; an image of one half is asked about, and only
images of the other half may answer, of its own label as of all others. A label with one image takes no part.
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
    """The nearest images (Euclidean) of each image that was asked about, nearest first."""

    asked: Numbers  # (n,), rows
    found: Numbers  # (n, up to NEIGHBOURS), rows
    distances: npt.NDArray[np.float64]  # (n, as found)

    def right(self, labels: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Whether each that was found has the label that was asked for, (n, as found)."""
        return labels[self.found] == labels[self.asked][:, None]


@dataclass(frozen=True)
class Score:
    """Quality of vectors of one width. Shares of 1; None where there is nothing to measure."""

    width: int
    first: float | None  # nearest neighbour of the other half has the label
    among: float | None  # one of the NEIGHBOURS nearest has
    duplicates: float | None  # nearest of all other images has: near duplicates count
    silhouette: float | None  # -1 to 1


@dataclass(frozen=True)
class Quality:
    """What was measured on the rows of one report."""

    asked: int
    alone: int  # labels with one image, left out
    chance: float | None  # share that an image drawn blindly of the other half has the label
    full: Score
    reduced: Score
    by_components: list[tuple[int, float]]  # components, share that is right with so many
    neighbours: Neighbours  # of the embeddings


def measure(images: Sequence[str], labels: Sequence[str], features: Floats, embeddings: Floats) -> Quality:
    """Measure rows; ``features`` (rows, width) and ``embeddings`` (rows, components) belong to them."""
    names = np.array(labels, object)
    half = halves(images, labels)
    nearest = neighbours(embeddings, half)
    sides = [Counter(names[half == side].tolist()) for side in (0, 1)]
    pairs = sides[0].total() * sides[1].total()
    return Quality(
        asked=len(nearest.asked),
        alone=int((half < 0).sum()),
        chance=sum(n * sides[1][label] for label, n in sides[0].items()) / pairs if pairs else None,
        full=_score(features, names, half, neighbours(features, half)),
        reduced=_score(embeddings, names, half, nearest),
        by_components=[
            (count, share)
            for count in _counts(embeddings.shape[1])
            if (share := _first(names, neighbours(embeddings[:, :count], half, 1))) is not None
        ],
        neighbours=nearest,
    )


def halves(images: Sequence[str], labels: Sequence[str]) -> npt.NDArray[np.int8]:
    """The half of its label that each image is in, 0 or 1; -1 for the only image of a label."""
    groups: dict[str, list[int]] = {}
    for row in sorted(range(len(images)), key=lambda row: natural(images[row])):
        groups.setdefault(labels[row], []).append(row)
    found = np.full(len(images), -1, np.int8)
    for rows in groups.values():
        if len(rows) > 1:
            found[rows[: len(rows) // 2]] = 0
            found[rows[len(rows) // 2 :]] = 1
    return found


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key by which r2 comes before r10."""
    parts = re.split(r"(\d+)", name, flags=re.ASCII)
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts if part]


def neighbours(vectors: Floats, half: npt.NDArray[np.int8], count: int = NEIGHBOURS) -> Neighbours:
    """For each row of either half its ``count`` nearest of the other half, fewer where there are fewer."""
    from sklearn.neighbors import NearestNeighbors

    sides = [np.flatnonzero(half == side) for side in (0, 1)]
    count = min(count, *map(len, sides))
    asked, found, distances = [], [], []
    for here, there in (sides, sides[::-1]) if count else ():
        search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(vectors[there])
        apart, at = search.kneighbors(vectors[here])
        asked.append(here)
        found.append(there[at])
        distances.append(apart)
    if not asked:
        return Neighbours(np.empty(0, np.intp), np.empty((0, 0), np.intp), np.empty((0, 0)))
    rows = np.concatenate(asked)
    order = np.argsort(rows)
    return Neighbours(rows[order], np.concatenate(found)[order], np.concatenate(distances)[order])


def confusions(labels: Sequence[str], nearest: Neighbours) -> Counter[tuple[str, str]]:
    """How often a label (first) was taken for one (second), by the nearest neighbour."""
    return Counter(
        (labels[asked], labels[found])
        for asked, found in zip(nearest.asked.tolist(), nearest.found[:, :1].ravel().tolist(), strict=True)
    )


def _first(names: npt.NDArray[Any], nearest: Neighbours) -> float | None:
    return float(nearest.right(names)[:, 0].mean()) if len(nearest.asked) else None


def _score(
    vectors: Floats, names: npt.NDArray[Any], half: npt.NDArray[np.int8], nearest: Neighbours
) -> Score:
    right = nearest.right(names)
    return Score(
        width=vectors.shape[1],
        first=_first(names, nearest),
        among=float(right.any(axis=1).mean()) if len(right) else None,
        duplicates=_with_duplicates(vectors[half >= 0], names[half >= 0]),
        silhouette=_silhouette(vectors, names),
    )


def _with_duplicates(vectors: Floats, names: npt.NDArray[Any]) -> float | None:
    from sklearn.neighbors import NearestNeighbors

    if len(vectors) < 2:
        return None
    # Without an argument a row is not its own neighbour.
    at = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(vectors).kneighbors(return_distance=False)
    return float((names[at[:, 0]] == names).mean())


def _silhouette(vectors: Floats, names: npt.NDArray[Any]) -> float | None:
    from sklearn.metrics import silhouette_score

    if not 2 <= len(set(names.tolist())) < len(names):
        return None
    _, numbers = np.unique(names.astype(object), return_inverse=True)
    return float(silhouette_score(vectors, numbers))


def _counts(components: int) -> list[int]:
    """Numbers of components to try: 1, 2, 5, 10, 20, 50 ... and all."""
    steps = [digit * 10**power for power in range(4) for digit in (1, 2, 5)]
    return [*(step for step in steps if step < components), components]
