"""scikit-learn's PCA of a prefix of features shards, in memory. Reading and computing are timed apart."""

from __future__ import annotations

import time

import numpy as np
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

from benchmarks.jobs import command

SOLVERS = ("full", "covariance_eigh")


def main() -> None:
    args = command.parse(__doc__, "features", "components")
    started = time.monotonic()
    column = pq.read_table(args.features, columns=["features"]).column("features").combine_chunks()
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    result: dict[str, object] = {"read": time.monotonic() - started}
    for solver in SOLVERS:
        started = time.monotonic()
        pca = PCA(args.components, svd_solver=solver)
        # Not fit_transform, which takes different paths for "covariance_eigh" and "full".
        embeddings = pca.fit(features).transform(features)
        result[solver] = time.monotonic() - started
        result["variance_kept"] = float(pca.explained_variance_ratio_.sum())
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{solver} gives NaN or infinity")
    command.answer(**result)


if __name__ == "__main__":
    main()
