"""Clients and storage use the endpoint and credentials of the Airflow connection or the environment."""

from __future__ import annotations

import json

import pytest

from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError
from support.local_aws import BUCKET, REGION, LocalAws


def test_a_connection_gives_endpoint_and_credentials(connection: str, local_aws: LocalAws) -> None:
    aws = Aws.from_connection(connection, REGION)
    assert aws.endpoint_url == local_aws.endpoint
    local_aws.put("aws-test/connection", b"by connection")
    body = aws.client("s3").get_object(Bucket=BUCKET, Key="aws-test/connection")["Body"].read()
    assert body == aws.storage(f"s3://{BUCKET}/aws-test").get("connection").to_pybytes() == b"by connection"


@pytest.mark.usefixtures("s3_environment")
def test_without_a_connection_the_environment_decides(local_aws: LocalAws) -> None:
    for aws in (Aws.from_environment(REGION), Aws.from_connection("not_defined", REGION)):
        local_aws.put("aws-test/environment", b"by environment")
        storage = aws.storage(f"s3://{BUCKET}/aws-test")
        assert storage.get("environment").to_pybytes() == b"by environment"
        assert aws.client("s3").head_bucket(Bucket=BUCKET)["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_a_connections_endpoint_wins_over_the_environments(
    connection: str, monkeypatch: pytest.MonkeyPatch, local_aws: LocalAws
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    local_aws.put("aws-test/both", b"1")
    aws = Aws.from_connection(connection, REGION)
    assert aws.storage(f"s3://{BUCKET}/aws-test").get("both").to_pybytes() == b"1"


def test_a_profile_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "no-such")
    for make in (Aws.from_environment, lambda region: Aws.from_connection("not_defined", region)):
        with pytest.raises(JobError, match=r"^the AWS profile 'no-such' does not exist; set AWS_PROFILE"):
            make(REGION)


def test_the_error_about_a_malformed_endpoint_names_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = {"conn_type": "aws", "extra": {"endpoint_url": "127.0.0.1:5000"}}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_ODD", json.dumps(connection))
    with pytest.raises(
        JobError, match=r"^the endpoint_url of the Airflow connection 'aws_odd' is no URL; give"
    ):
        Aws.from_connection("aws_odd", REGION)
