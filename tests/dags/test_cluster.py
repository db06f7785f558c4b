"""The cluster's request is one that EMR takes, and a run's clusters are found by their tag."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_harness import LocalAws, refused_by_emr

from fruit_pipeline import cluster
from fruit_pipeline.settings import Settings
from image_features.errors import JobError

URIS = ("s3://b-1/runs/r1/logs", "s3://b-1/runs/r1/code/install.sh", "s3://b-1/wheelhouse/abc")


@pytest.fixture
def built(deployment: Settings, repo: Path) -> dict[str, Any]:
    return cluster.build_request(deployment, cluster.load_shape(repo, "small"), "r1", *URIS)


@pytest.fixture
def home(repo: Path, tmp_path: Path) -> Path:
    """A home whose shape `small` a test may change."""
    shutil.copytree(repo / "emr_configs", tmp_path / "emr_configs")
    return tmp_path


def change(home: Path, **fields: Any) -> None:
    path = home / "emr_configs" / "small.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_every_shape_gives_a_request_that_emr_takes(deployment: Settings, repo: Path) -> None:
    for name in cluster.shape_names(repo):
        request = cluster.build_request(deployment, cluster.load_shape(repo, name), "r1", *URIS)
        assert refused_by_emr("RunJobFlow", request) == ""


def test_the_request_is_plain_json_as_xcom_and_the_aws_cli_need_it(built: dict[str, Any]) -> None:
    assert json.loads(json.dumps(built)) == built


def test_the_cluster_carries_the_runs_tag_and_emrs_own(built: dict[str, Any]) -> None:
    tags = {tag["Key"]: tag["Value"] for tag in built["Tags"]}
    assert tags == {cluster.RUN_TAG: "r1", "for-use-with-amazon-emr-managed-policies": "true"}


def test_an_idle_cluster_ends_itself(built: dict[str, Any], repo: Path) -> None:
    assert built["AutoTerminationPolicy"] == {
        "IdleTimeout": cluster.load_shape(repo, "small").idle_timeout_seconds
    }
    assert built["Instances"]["TerminationProtected"] is False


def test_the_nodes_get_the_deployments_region(deployment: Settings, repo: Path) -> None:
    settings = replace(deployment, region="eu-north-1")
    text = json.dumps(cluster.build_request(settings, cluster.load_shape(repo, "small"), "r1", *URIS))
    assert '"AWS_REGION": "eu-north-1"' in text
    assert "{region}" not in text


def test_the_shapes_spark_settings_join_the_shared_ones(built: dict[str, Any], repo: Path) -> None:
    (defaults,) = (c for c in built["Configurations"] if c["Classification"] == "spark-defaults")
    shape = cluster.load_shape(repo, "small")
    assert shape.spark_defaults.items() <= defaults["Properties"].items()
    assert defaults["Properties"]["spark.dynamicAllocation.enabled"] == "false"


def test_a_shapes_cores_are_those_of_its_executors(repo: Path) -> None:
    for name in cluster.shape_names(repo):
        shape = cluster.load_shape(repo, name)
        executors, cores = (
            int(shape.spark_defaults[f"spark.executor.{key}"]) for key in ("instances", "cores")
        )
        assert shape.worker_cores == executors * cores


def test_bootstrap_logs_roles_and_subnet_are_the_deployments(deployment: Settings, repo: Path) -> None:
    settings = replace(deployment, subnet_id="subnet-1", service_role="R", instance_profile="P")
    request = cluster.build_request(settings, cluster.load_shape(repo, "small"), "r1", *URIS)
    assert request["LogUri"] == "s3://b-1/runs/r1/logs/"
    (action,) = request["BootstrapActions"]
    assert action["ScriptBootstrapAction"] == {"Path": URIS[1], "Args": [URIS[2]]}
    assert (request["ServiceRole"], request["JobFlowRole"]) == ("R", "P")
    assert request["Instances"]["Ec2SubnetId"] == "subnet-1"


def test_an_unknown_shape_is_refused_with_those_that_there_are(repo: Path) -> None:
    with pytest.raises(JobError, match=r"unknown cluster shape 'tiny'; expected one of .*small"):
        cluster.load_shape(repo, "tiny")


def test_the_shared_classifications_are_no_shape(repo: Path) -> None:
    assert "classifications" not in cluster.shape_names(repo)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"idle_timeout_seconds": 59}, "idle_timeout_seconds must lie in 60 to 604800"),
        ({"idle_timeout_seconds": 604_801}, "idle_timeout_seconds must lie in 60 to 604800"),
        ({"idle_timeout_seconds": "900"}, "idle_timeout_seconds"),
        ({"worker_cores": 0}, "worker_cores must be at least 1"),
        ({"worker_cores": "8"}, "worker_cores"),
        ({"instance_groups": []}, "instance_groups must hold one MASTER and one CORE"),
        ({"instance_groups": [{"InstanceRole": "MASTER"}] * 2}, "instance_groups must hold one MASTER"),
        ({"instance_groups": "two"}, "instance_groups"),
        ({"instance_groups": ["MASTER", "CORE"]}, "instance_groups"),
        ({"spark_defaults": None}, "spark_defaults"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_shape_at_fault_is_refused_by_file_and_field(
    home: Path, fields: dict[str, Any], message: str
) -> None:
    change(home, **fields)
    with pytest.raises(JobError, match=rf"emr_configs/small\.json.*{message}"):
        cluster.load_shape(home, "small")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_is_no_shape_is_refused_by_name(home: Path, text: str) -> None:
    (home / "emr_configs" / "small.json").write_text(text)
    with pytest.raises(JobError, match=r"small\.json is no cluster shape \(fields: description,"):
        cluster.load_shape(home, "small")


def test_only_the_living_clusters_of_the_run_are_found_among_others(clusters: LocalAws) -> None:
    tagged = {cluster.RUN_TAG: "wanted"}
    name = cluster.name_of("wanted")
    ended = clusters.start_cluster(name, tagged)
    clusters.emr.terminate_job_flows(JobFlowIds=[ended])
    older = clusters.start_cluster(name, tagged)
    for number in range(51):  # a page of list_clusters holds 50
        clusters.start_cluster(cluster.name_of(f"other-{number}"), {cluster.RUN_TAG: f"other-{number}"})
    clusters.start_cluster(name)  # the name alone is not enough
    clusters.start_cluster(name, {cluster.RUN_TAG: "other"})
    newer = clusters.start_cluster(name, tagged)
    assert cluster.alive_of_run(clusters.emr, "wanted") == [newer, older]
    assert cluster.alive_of_run(clusters.emr, "nobody") == []
