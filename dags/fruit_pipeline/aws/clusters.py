"""EMR clusters of this project: their tags and states, one view of a cluster, and the search by tag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fruit_pipeline.aws import clock

RUN_TAG = "image-features-run"
"""Tag whose value is the run key. Retries and teardowns find the clusters of a run by it."""

DAG_RUN_TAG = "image-features-dag-run"
"""Tag whose value is the id of the DAG run that created the cluster, in the form that key_of returns."""

UNTIL_TAG = "image-features-until"
"""Tag whose value is an ISO time with its offset, after which the reaper may end the cluster."""

PROJECT_TAG, PROJECT = "project", "image-features"
"""Tag of every cluster. Once it is a cost allocation tag, the bill can be read by it."""

OWNER_TAG = "owner"

EMR_TAG = "for-use-with-amazon-emr-managed-policies"
"""Tag that lets AmazonEMRServicePolicy_v2 act on the cluster's resources."""

ALIVE = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]

READY = ["RUNNING", "WAITING"]

TERMINAL = ["TERMINATED", "TERMINATED_WITH_ERRORS"]

ENDING = ["TERMINATING", *TERMINAL]


@dataclass(frozen=True)
class Cluster:
    """A cluster as DescribeCluster shows it; a time that has not come yet is None."""

    id: str
    name: str
    state: str
    reason_code: str
    reason_message: str
    error_details: tuple[tuple[str, str], ...]  # code and message of each
    tags: Mapping[str, str]
    created: datetime
    ready: datetime | None
    ended: datetime | None
    log_uri: str  # without a slash at the end; empty when the cluster keeps no logs
    termination_protected: bool
    uses_fleets: bool  # else instance groups
    primary_dns: str
    server_time: datetime  # when AWS answered, by its own clock

    @staticmethod
    def from_answer(answer: Mapping[str, Any]) -> Cluster:
        """Read an answer of DescribeCluster."""
        described = answer["Cluster"]
        status = described["Status"]
        reason, timeline = status.get("StateChangeReason", {}), status["Timeline"]
        return Cluster(
            id=described["Id"],
            name=described.get("Name", ""),
            state=status["State"],
            reason_code=reason.get("Code", ""),
            reason_message=reason.get("Message", ""),
            error_details=tuple(
                (detail.get("ErrorCode", ""), detail.get("ErrorMessage", ""))
                for detail in status.get("ErrorDetails", [])
            ),
            tags=tags_of(described.get("Tags", [])),
            created=timeline["CreationDateTime"],
            ready=timeline.get("ReadyDateTime"),
            ended=timeline.get("EndDateTime"),
            log_uri=described.get("LogUri", "").rstrip("/"),
            termination_protected=described.get("TerminationProtected", False),
            uses_fleets=described.get("InstanceCollectionType") == "INSTANCE_FLEET",
            primary_dns=described.get("MasterPublicDnsName", ""),
            server_time=clock.server_time(answer),
        )

    @property
    def ending(self) -> bool:
        """Whether it is terminating or has terminated."""
        return self.state in ENDING


def tags_of(items: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """EMR's list of tags as a dict."""
    return {item["Key"]: item.get("Value", "") for item in items}


def name_of(run_key: str) -> str:
    """Name of the clusters of a run."""
    return f"image-features {run_key}"


def describe(emr: Any, cluster_id: str) -> Cluster:
    """One DescribeCluster call."""
    return Cluster.from_answer(emr.describe_cluster(ClusterId=cluster_id))


def clusters_of_runs(emr: Any, states: Iterable[str], name: str | None = None) -> Iterator[Cluster]:
    """Clusters that carry RUN_TAG, newest first, listed in one of ``states``; with ``name``, only so named.

    A cluster may have reached another state between the list and its description.
    """
    for page in emr.get_paginator("list_clusters").paginate(ClusterStates=list(states)):
        for listed in page["Clusters"]:
            if name is None or listed["Name"] == name:
                cluster = describe(emr, listed["Id"])
                if RUN_TAG in cluster.tags:
                    yield cluster


def clusters_of_run(
    emr: Any, run_key: str, *, terminating: bool = False, dag_run: str | None = None
) -> list[Cluster]:
    """The living clusters that carry the run's tag, newest first; ``terminating``: also those that end.

    With ``dag_run``, clusters that another DAG run created are left out.
    """
    states = [*ALIVE, "TERMINATING"] if terminating else ALIVE
    return [
        cluster
        for cluster in clusters_of_runs(emr, states, name_of(run_key))
        if cluster.tags[RUN_TAG] == run_key
        and (dag_run is None or cluster.tags.get(DAG_RUN_TAG, dag_run) == dag_run)
    ]
