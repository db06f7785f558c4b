"""Exact principal component analysis from moments that add up over shards.

Equal to ``sklearn.decomposition.PCA(svd_solver="full")``: the covariance is summed in float64
around each block's own mean and merged with the pairwise update of Chan, Golub and LeVeque
("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), so no precision is
lost when the mean is large against the spread. Memory depends on the width, not on the rows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from image_features.errors import Damaged, JobError, Stage

Floats = npt.NDArray[np.float64]

# Rows that are converted to float64 at a time: 20 MB at 1,280 features, enough for BLAS to be fast.
_BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and scatter matrix (d, d) = sum of (x - mean)(x - mean)^T, in float64."""

    rows: int
    mean: Floats
    scatter: Floats

    @staticmethod
    def of(features: npt.NDArray[np.float32]) -> Moments:
        """Moments of an array of shape (rows, d), rows >= 1."""
        blocks = (features[at : at + _BLOCK_ROWS] for at in range(0, len(features), _BLOCK_ROWS))
        return Moments.merged(_of_block(block) for block in blocks)

    @staticmethod
    def merged(parts: Iterable[Moments]) -> Moments:
        """Merge one or more moments, in order."""
        iterator = iter(parts)
        total = next(iterator)
        for part in iterator:
            total = total.merge(part)
        return total

    def merge(self, other: Moments) -> Moments:
        rows = self.rows + other.rows
        delta = other.mean - self.mean
        between = delta * np.sqrt(self.rows * other.rows / rows)
        scatter = self.scatter + other.scatter
        scatter += np.outer(between, between)
        return Moments(rows, self.mean + delta * (other.rows / rows), scatter)


def _of_block(block: npt.NDArray[np.float32]) -> Moments:
    wide = block.astype(np.float64)
    mean = wide.mean(axis=0)
    wide -= mean
    return Moments(len(block), mean, wide.T @ wide)  # numpy calls dsyrk: half the work of dgemm


@dataclass(frozen=True)
class PcaModel:
    """A fitted PCA; names and shapes as in scikit-learn, all float64.

    mean (d,); components (k, d), orthonormal rows, in each row the entry of largest absolute
    value is positive (scikit-learn's convention since 1.5); explained_variance (k,) with n - 1 in
    the denominator; explained_variance_ratio (k,).
    """

    mean: Floats
    components: Floats
    explained_variance: Floats
    explained_variance_ratio: Floats

    @property
    def variance_kept(self) -> float:
        return float(self.explained_variance_ratio.sum())

    @property
    def digest(self) -> str:
        arrays = (self.mean, self.components)
        return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()

    def transform(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Project features (n, d) to mean-centred embeddings (n, k), float32."""
        out = np.empty((len(features), len(self.components)), np.float32)
        for at in range(0, len(features), _BLOCK_ROWS):
            block = features[at : at + _BLOCK_ROWS]
            out[at : at + len(block)] = (block - self.mean) @ self.components.T
        return out

    def to_npz(self) -> bytes:
        """The four arrays as an ``.npz`` file, for ``numpy.load(..., allow_pickle=False)``."""
        sink = io.BytesIO()
        np.savez(
            sink,
            mean=self.mean,
            components=self.components,
            explained_variance=self.explained_variance,
            explained_variance_ratio=self.explained_variance_ratio,
        )
        return sink.getvalue()

    @staticmethod
    def from_npz(data: bytes, uri: str) -> PcaModel:
        """Inverse of to_npz. Raises Damaged that names ``uri`` when the file is not one."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return PcaModel(
                    arrays["mean"],
                    arrays["components"],
                    arrays["explained_variance"],
                    arrays["explained_variance_ratio"],
                )
        except Exception as error:  # one changed bit makes NumPy and zipfile raise nearly anything
            raise Damaged(f"{uri} is not a PCA model: {error}", stage=Stage.PCA) from error


def check_request(rows: int, width: int, components: int | None, variance: float | None) -> int:
    """The most components that ``rows`` x ``width`` allow. Raises JobError when the request cannot be met."""
    most = min(rows, width)
    if (components is None) == (variance is None):
        raise JobError("give either a number of components or a share of variance, not both")
    if rows < 2:
        raise JobError(f"a PCA needs at least 2 images with features, there are {rows}")
    if components is not None and not 1 <= components <= most:
        raise JobError(
            f"{components} components asked for, but {rows} images of {width} features allow 1 to {most}"
        )
    if variance is not None and not 0 < variance < 1:
        raise JobError(f"the share of variance must lie between 0 and 1, not {variance}")
    return most


def fit(moments: Moments, components: int | None = None, variance: float | None = None) -> PcaModel:
    """Fit a PCA with a number of components, or with as few as keep ``variance`` (0 to 1).

    Raises JobError when more components are asked for than min(rows, width), or when the rows do
    not vary.
    """
    most = check_request(moments.rows, len(moments.mean), components, variance)
    values, vectors = np.linalg.eigh(moments.scatter / (moments.rows - 1))
    # eigh sorts in ascending order; rounding can make zeros slightly negative.
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    total = values.sum()
    if total == 0:
        raise JobError("all images have the same features: there is no variance to keep")
    ratio = values / total
    if variance is not None:
        components = min(int(np.searchsorted(np.cumsum(ratio), variance, side="right")) + 1, most)
        # A sum of many shares is rounded otherwise than their running sum: what is kept must be met as well.
        while components < most and float(ratio[:components].sum()) < variance:
            components += 1
    rows = np.ascontiguousarray(vectors.T[:components])
    largest = np.argmax(np.abs(rows), axis=1)
    rows *= np.sign(rows[np.arange(len(rows)), largest])[:, None]
    return PcaModel(moments.mean, rows, values[:components].copy(), ratio[:components].copy())


def is_met(request: str, model: PcaModel, rows: int) -> bool:
    """Whether a model fitted on ``rows`` images keeps what was requested: "components=50" or "variance=0.9".

    All components keep everything, although rounding may give their shares a sum just below 1.
    """
    kind, _, value = request.partition("=")
    count, width = model.components.shape
    if kind == "components":
        return count == int(value)
    return model.variance_kept >= float(value) or count == min(rows, width)
