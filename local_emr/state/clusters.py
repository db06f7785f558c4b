"""The clusters of a snapshot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from local_emr.emr.cluster import ENDED, STEP_ENDED, Cluster
from local_emr.state import snapshot


class ClusterStore:
    """``clusters.json`` of a directory; ``backends`` is moto's BackendDict of EMR."""

    def __init__(self, directory: Path, backends: Any) -> None:
        self.document = snapshot.Document(directory / "clusters.json")
        self.backends = backends

    def save(self) -> None:
        """Raises OSError."""
        clusters = []
        for _, _, backend in list(self.backends.iter_backends()):
            for lifecycle in list(backend.lifecycles.values()):
                with lifecycle.changed:
                    clusters.append(lifecycle.cluster.to_json())
        self.document.save(clusters=clusters)

    def load(self) -> None:
        """Restores the clusters. Raises StateError."""
        for item in self.document.load("clusters"):
            try:
                cluster = Cluster.from_json(item)
            except (KeyError, TypeError) as error:
                raise self.document.damaged(repr(error)) from error
            if cluster.state not in ENDED:
                _end(cluster)
            self.backends[cluster.account][cluster.region].restore(cluster)


def _end(cluster: Cluster) -> None:
    """Ends a cluster that was alive at the last snapshot: its processes ended with the server."""
    now = time.time()
    cluster.state, cluster.code = "TERMINATED_WITH_ERRORS", "INTERNAL_ERROR"
    cluster.message = "The local AWS server ended while the cluster was alive"
    cluster.ended = cluster.collection.ended = now
    cluster.collection.state = "TERMINATED"
    for step in cluster.steps:
        if step.state not in STEP_ENDED:
            step.state, step.message = (
                ("CANCELLED" if step.state == "PENDING" else "INTERRUPTED"),
                "Job terminated",
            )
            step.ended = now
