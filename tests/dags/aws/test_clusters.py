"""The view of a cluster, and the search for a run's clusters by their tag."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.aws.clusters import Cluster
from support.instant_aws import InstantAws

CREATED = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def test_a_cluster_is_read_from_one_answer() -> None:
    ready, ended = CREATED.replace(minute=5), CREATED.replace(minute=30)
    answer = {
        "Cluster": {
            "Id": "j-1",
            "Name": "image-features r1",
            "Status": {
                "State": "TERMINATED",
                "StateChangeReason": {"Code": "USER_REQUEST", "Message": "by hand"},
                "ErrorDetails": [{"ErrorCode": "E", "ErrorMessage": "why"}],
                "Timeline": {"CreationDateTime": CREATED, "ReadyDateTime": ready, "EndDateTime": ended},
            },
            "Tags": [{"Key": "owner", "Value": "ada"}, {"Key": "flag"}],
            "LogUri": "s3://b/logs/",
            "TerminationProtected": True,
            "InstanceCollectionType": "INSTANCE_FLEET",
            "MasterPublicDnsName": "ec2-1.example",
        },
        "ResponseMetadata": {"HTTPHeaders": {"date": "Mon, 30 Nov 2026 12:31:00 GMT"}},
    }
    assert Cluster.from_answer(answer) == Cluster(
        id="j-1",
        name="image-features r1",
        state="TERMINATED",
        reason_code="USER_REQUEST",
        reason_message="by hand",
        error_details=(("E", "why"),),
        tags={"owner": "ada", "flag": ""},
        created=CREATED,
        ready=ready,
        ended=ended,
        log_uri="s3://b/logs",
        termination_protected=True,
        uses_fleets=True,
        primary_dns="ec2-1.example",
        server_time=CREATED.replace(minute=31),
    )


@pytest.mark.parametrize(
    ("state", "ending"),
    [("STARTING", False), ("WAITING", False), ("TERMINATING", True), ("TERMINATED_WITH_ERRORS", True)],
)
def test_what_an_answer_lacks_is_empty_and_the_state_says_whether_it_is_ending(
    state: str, ending: bool
) -> None:
    status = {"State": state, "Timeline": {"CreationDateTime": CREATED}}
    cluster = Cluster.from_answer({"Cluster": {"Id": "j-1", "Status": status}})
    assert (cluster.ready, cluster.ended, cluster.log_uri, cluster.tags) == (None, None, "", {})
    assert cluster.ending is ending


def test_only_the_living_clusters_of_the_run_are_found_among_others(clusters: InstantAws) -> None:
    tagged = {aws_clusters.RUN_TAG: "wanted"}
    name = aws_clusters.name_of("wanted")
    ended = clusters.run(name=name, tags=tagged)
    clusters.emr.terminate_job_flows(JobFlowIds=[ended])
    older = clusters.run(name=name, tags=tagged)
    for number in range(51):  # a page of list_clusters holds 50
        clusters.run(
            name=aws_clusters.name_of(f"other-{number}"), tags={aws_clusters.RUN_TAG: f"other-{number}"}
        )
    clusters.run(name=name)  # the name alone is not enough
    clusters.run(name=name, tags={aws_clusters.RUN_TAG: "other"})
    newer = clusters.run(name=name, tags=tagged)
    found = aws_clusters.clusters_of_run(clusters.emr, "wanted")
    assert [cluster.id for cluster in found] == [newer, older]
    assert aws_clusters.clusters_of_run(clusters.emr, "nobody") == []
