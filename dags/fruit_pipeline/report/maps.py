"""Maps of the images, as points of a plane: the first two components, and t-SNE of all components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

POINTS = 2_000
"""Most images on a map."""

PERPLEXITY = 30.0
SMALLEST = 5
"""Fewest points for which t-SNE is computed."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plane:
    """Points of a map, scaled alike in both directions where ``square``."""

    points: npt.NDArray[np.float64]  # (n, 2)
    square: bool


def of_components(embeddings: Floats, labels: list[str]) -> Plane:
    """First and second component; if there is only one, the second axis is the label, alphabetically."""
    if embeddings.shape[1] > 1:
        return Plane(embeddings[:, :2].astype(np.float64), square=True)
    rank = {label: at for at, label in enumerate(sorted(set(labels), reverse=True))}
    return Plane(
        np.array([(x, rank[label]) for x, label in zip(embeddings[:, 0], labels, strict=True)]), False
    )


def of_neighbours(embeddings: Floats, seed: int) -> Plane | None:
    """t-SNE of the embeddings (n, components); None for fewer than SMALLEST points."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(embeddings) < SMALLEST:
        return None
    tsne = TSNE(
        perplexity=perplexity(len(embeddings)),
        init="pca" if embeddings.shape[1] > 1 and embeddings.std() > 0 else "random",
        random_state=seed,
    )
    # With several threads, sums would depend on their order, and threads would wait on a busy worker.
    with threadpool_limits(1):
        return Plane(np.asarray(tsne.fit_transform(embeddings), np.float64), square=True)


def perplexity(points: int) -> float:
    return min(PERPLEXITY, (points - 1) / 3)


def scaled(plane: Plane, steps: int = 10_000) -> list[list[int]]:
    """The points as integers from 0 to ``steps``, the second axis upwards: two lists, x and y."""
    low, high = plane.points.min(axis=0), plane.points.max(axis=0)
    span: Any = high - low
    if plane.square:
        span = np.full(2, span.max())
    span = np.where(span > 0, span, 1.0)
    middle = (low + high) / 2
    unit = (plane.points - middle) / span + 0.5
    return np.rint(np.clip(unit, 0, 1) * steps).astype(int).T.tolist()
