"""A run that would fail or go where it must not is refused first, with what to do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from pipeline_harness import BUCKET, REGION, LocalAws

from fruit_pipeline import cluster, guards
from fruit_pipeline.aws import Aws
from fruit_pipeline.request import RunRequest, form, from_params
from fruit_pipeline.settings import Settings
from image_features.errors import JobError


class OneTry(Aws):
    """Does not try again: what a test makes fail fails for good."""

    def client(self, service: str, **config: Any) -> Any:
        return super().client(service, **{**config, "retries": {"total_max_attempts": 1}})


@pytest.fixture
def good(repo: Path, drawn_folder: Path) -> RunRequest:
    params = {name: param.resolve() for name, param in form(cluster.descriptions(repo)).items()}
    return from_params({**params, "source": str(drawn_folder), "weights": "random:0"}, "good", BUCKET)


def refusal(request: RunRequest, settings: Settings, aws: Aws, source_aws: Aws | None = None) -> str:
    with pytest.raises(JobError) as caught:
        guards.check(request, settings, aws, source_aws or aws)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_request_passes(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    guards.check(good, deployment, aws, aws)


def test_a_good_request_for_a_bucket_source_passes(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    local_aws.put("guard source/a/1.jpg")
    guards.check(replace(good, source=f"s3://{BUCKET}/guard source"), deployment, aws, aws)


def test_a_region_that_is_not_allowed(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, region="us-east-1"), aws)
    assert text.startswith("region us-east-1 is not allowed; allowed: eu-central-1, ")
    assert "Set FRUITS_REGION, or FRUITS_ALLOWED_REGIONS" in text


def test_a_bucket_that_does_not_exist(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, bucket="nobody-has-this"), deployment, aws)
    assert text == "bucket nobody-has-this: it does not exist; create it, or name another"


def test_a_bucket_in_another_region(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    local_aws.make_bucket("dags-tests-north", "eu-north-1")
    text = refusal(replace(good, bucket="dags-tests-north"), deployment, aws)
    assert text.startswith("bucket dags-tests-north lies in eu-north-1, the run in eu-west-3")
    assert "use a bucket of this region, or set FRUITS_REGION" in text


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers, nobody else can
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_an_endpoint_that_is_down(good: RunRequest, deployment: Settings, closed_port: str) -> None:
    down = OneTry(boto3.Session("test", "test", region_name=REGION), REGION, closed_port)
    text = refusal(good, deployment, down)
    assert text.startswith(f"bucket {BUCKET}: {closed_port} does not answer; is the local AWS running")


def test_no_credentials(good: RunRequest, deployment: Settings, local_aws: LocalAws) -> None:
    text = refusal(good, deployment, OneTry(boto3.Session(), REGION, local_aws.endpoint))
    assert text == (f"bucket {BUCKET}: no AWS credentials; set the Airflow connection or the environment")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("403", "access is denied; check the credentials and the bucket's policy"),
        ("AccessDenied", "access is denied; check the credentials and the bucket's policy"),
        ("ExpiredToken", "the credentials have expired; renew them"),
        ("301", "it lies in another region"),
        ("SlowDown", "(SlowDown)"),
    ],
)
def test_what_aws_refuses_says_what_to_do(aws: Aws, code: str, advice: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadBucket")
    with pytest.raises(JobError, match="bucket b") as caught, guards.explained("bucket b", aws):
        raise error
    assert advice in str(caught.value)


def test_a_source_folder_that_is_missing(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, source="/no/such/folder"), deployment, aws)
    assert text == "the source folder /no/such/folder does not exist on this worker"


def test_a_source_folder_that_is_empty(
    good: RunRequest, deployment: Settings, aws: Aws, tmp_path: Path
) -> None:
    text = refusal(replace(good, source=str(tmp_path)), deployment, aws)
    assert text == f"the source folder {tmp_path} is empty; expected <source>/<label>/<image>"


def test_a_source_folder_without_labels(
    good: RunRequest, deployment: Settings, aws: Aws, tmp_path: Path
) -> None:
    (tmp_path / "1.jpg").write_bytes(b"x")
    assert "has 1 images but no label folders" in refusal(
        replace(good, source=str(tmp_path)), deployment, aws
    )


def test_a_source_that_is_a_file(good: RunRequest, deployment: Settings, aws: Aws, tmp_path: Path) -> None:
    file = tmp_path / "1.jpg"
    file.touch()
    assert "cannot be listed: Not a directory" in refusal(replace(good, source=str(file)), deployment, aws)


def test_a_source_prefix_that_is_empty(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, source=f"s3://{BUCKET}/no-such/"), deployment, aws)
    assert text == f"s3://{BUCKET}/no-such is empty; expected <source>/<label>/<image>"


def test_a_source_bucket_that_does_not_exist(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, source="s3://nobody-has-this/x"), deployment, aws)
    assert text == "source bucket nobody-has-this: it does not exist; create it, or name another"


def test_the_source_is_read_with_its_own_connection(
    good: RunRequest, deployment: Settings, aws: Aws, closed_port: str
) -> None:
    elsewhere = OneTry(boto3.Session("test", "test", region_name=REGION), REGION, closed_port)
    text = refusal(replace(good, source="s3://photos/fruits"), deployment, aws, elsewhere)
    assert text.startswith(f"source bucket photos: {closed_port} does not answer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "/no/such.h5"}, "the weights file /no/such.h5 does not exist; expected imagenet"),
        ({"alpha": 0.4, "weights": "imagenet"}, "no ImageNet weights for alpha 0.4"),
        ({"input_size": 100}, "mobilenet_v2 takes no input size 100; there are 96, 128, 160, 192, 224"),
        ({"backbone": "resnet50", "input_size": 160}, "resnet50 takes no input size 160; there are 224"),
        ({"precision": "int4"}, "unknown precision 'int4'; expected one of float32, int8"),
        ({"precision": "int8"}, "int8 needs trained weights; with random:0 its features would all be zero"),
        (
            {"precision": "int8", "weights": "imagenet", "total": 49},
            "int8 is calibrated on images of the sample and needs 50, but",
        ),
        ({"shape": "huge"}, "unknown cluster shape 'huge'"),
        ({"per_label": 1, "total": 1}, "per label or in total, not both"),
        ({"components": None, "variance": None}, "set the number of components or the variance"),
        ({"total": 49, "components": 50}, "50 components asked for, but only 49 images; at most 49"),
        ({"source": "https://example.org/"}, "only s3://, file:// and plain paths are supported"),
        ({"source": "s3:///x"}, "names no bucket"),
    ],
)
def test_a_request_that_cannot_work(
    good: RunRequest, deployment: Settings, aws: Aws, change: dict[str, Any], message: str
) -> None:
    assert message in refusal(replace(good, **change), deployment, aws)


@pytest.mark.parametrize("change", [{"total": 50}, {"total": 10, "components": None, "variance": 0.9}])
def test_as_many_components_as_images_pass(
    good: RunRequest, deployment: Settings, aws: Aws, change: dict[str, Any]
) -> None:
    guards.check(replace(good, **change), deployment, aws, aws)
