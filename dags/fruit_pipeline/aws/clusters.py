"""The tags and states of this project's clusters, and how to find them."""

from __future__ import annotations

from typing import Any

RUN_TAG = "image-features-run"
"""Tag whose value is the run key; teardown and retries find a run's clusters by it."""

DAG_RUN_TAG = "image-features-dag-run"
"""Tag whose value is the id of the DAG run that made the cluster, as key_of writes it."""

PROJECT_TAG, PROJECT = "project", "image-features"
"""Tag that all clusters carry: what they cost is found by it, once it is a cost allocation tag."""

OWNER_TAG = "owner"

EMR_TAG = "for-use-with-amazon-emr-managed-policies"
"""Tag that lets AmazonEMRServicePolicy_v2 act on the cluster's resources."""

ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]

TERMINAL = ["TERMINATED", "TERMINATED_WITH_ERRORS"]

ENDING = ["TERMINATING", *TERMINAL]


def name_of(run_key: str) -> str:
    return f"image-features {run_key}"


def alive_of_run(emr: Any, run_key: str, *, ending: bool = False, dag_run: str | None = None) -> list[str]:
    """Ids of the living clusters that carry the run's tag, newest first; ``ending``: dying ones as well.

    With ``dag_run``, those that another DAG run has made are left out.
    """
    found = []
    states = [*ALIVE, "TERMINATING"] if ending else ALIVE
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=states):
        for cluster in page["Clusters"]:
            if cluster["Name"] == name_of(run_key):
                answer = emr.describe_cluster(ClusterId=cluster["Id"])["Cluster"]
                tags = {tag["Key"]: tag["Value"] for tag in answer.get("Tags", [])}
                others = dag_run and tags.get(DAG_RUN_TAG, dag_run) != dag_run
                if tags.get(RUN_TAG) == run_key and not others:
                    found.append(cluster["Id"])
    return found
