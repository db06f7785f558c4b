"""scikit-learn's PCA of a prefix of features shards, in memory: reading and computing timed apart."""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

SOLVERS = ("full", "covariance_eigh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", required=True)
    parser.add_argument("--components", type=int, required=True)
    args = parser.parse_args()
    started = time.monotonic()
    column = pq.read_table(args.features, columns=["features"]).column("features").combine_chunks()
    features = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    result: dict[str, object] = {"read": time.monotonic() - started}
    for solver in SOLVERS:
        started = time.monotonic()
        pca = PCA(args.components, svd_solver=solver)
        # Not fit_transform, which "covariance_eigh" and "full" do not share a path for.
        embeddings = pca.fit(features).transform(features)
        result[solver] = time.monotonic() - started
        result["variance_kept"] = float(pca.explained_variance_ratio_.sum())
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{solver} gives NaN or infinity")
    print("RESULT", json.dumps(result))


if __name__ == "__main__":
    main()
