"""A run that would fail or go where it must not is refused first, with what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.aws import errors
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks import preflight
from fruit_pipeline.cluster import shapes
from fruit_pipeline.dag.form import form
from fruit_pipeline.run.request import RunRequest, from_params
from fruit_pipeline.settings import Settings
from image_features.errors import JobError, StorageError
from support.local_aws import BUCKET, REGION, LocalAws
from support.waiting import eventually

MODELS = botocore.session.get_session().get_component("data_loader")


class OneTry(Aws):
    """Does not try again: what a test makes fail fails for good."""

    def client(self, service: str, region: str | None = None, **config: Any) -> Any:
        return super().client(service, region, **{**config, "retries": {"total_max_attempts": 1}})


@pytest.fixture(scope="module")
def good(repo: Path, drawn_folder: Path) -> RunRequest:
    params = {name: param.resolve() for name, param in form(shapes.descriptions(repo)).items()}
    return from_params({**params, "source": str(drawn_folder), "weights": "random:0"}, "good", BUCKET)


def refusal(request: RunRequest, settings: Settings, aws: Aws, source_aws: Aws | None = None) -> str:
    with pytest.raises(JobError) as caught:
        preflight.check(request, settings, aws, source_aws or aws)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_good_request_passes(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    preflight.check(good, deployment, aws, aws)


def test_a_good_request_for_a_bucket_source_passes(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    local_aws.put("preflight source/a/1.jpg")
    preflight.check(replace(good, source=f"s3://{BUCKET}/preflight source"), deployment, aws, aws)


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
    local_aws.set_up_account("test-bucket-north", "eu-north-1")
    text = refusal(replace(good, bucket="test-bucket-north"), deployment, aws)
    assert text.startswith("bucket test-bucket-north is in eu-north-1, the run in eu-west-3")
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


# What AWS refuses


def failing(call: str, status: int, body: str, times: int = 10**6) -> tuple[Aws, list[str]]:
    """An Aws whose ``call`` (service.Operation) is answered so, ``times`` times; and the calls seen."""
    own = botocore.session.Session()  # with events of its own, and the parsed models of all
    own.register_component("data_loader", MODELS)
    session = boto3.Session("test", "test", region_name=REGION, botocore_session=own)
    seen: list[str] = []

    def answer(request: Any, **_: Any) -> AWSResponse | None:
        seen.append(request.url)
        if len(seen) > times:
            return None  # on to the local AWS
        raw = SimpleNamespace(stream=lambda: iter([body.encode()]))
        return AWSResponse(request.url, status, {}, raw)

    session.events.register(f"before-send.{call}", answer)
    return OneTry(session, REGION), seen


S3_DENIED = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
IAM_DENIED = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
EC2_DENIED = (
    "<Response><Errors><Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error></Errors>"
    "</Response>"
)
EMR_DENIED = json.dumps({"__type": "AccessDeniedException", "Message": "no"})


@pytest.mark.parametrize(
    ("call", "status", "body", "what", "permission"),
    [
        ("s3.HeadBucket", 403, "", f"bucket {BUCKET}", "s3:ListBucket"),
        ("s3.GetBucketEncryption", 403, S3_DENIED, f"bucket {BUCKET}", "s3:GetEncryptionConfiguration"),
        ("s3.GetPublicAccessBlock", 403, S3_DENIED, f"bucket {BUCKET}", "s3:GetBucketPublicAccessBlock"),
        ("s3.GetBucketVersioning", 403, S3_DENIED, f"bucket {BUCKET}", "s3:GetBucketVersioning"),
        ("iam.GetRole", 403, IAM_DENIED, "service role EMR_DefaultRole_V2", "iam:GetRole"),
        (
            "iam.GetInstanceProfile",
            403,
            IAM_DENIED,
            "instance profile EMR_EC2_DefaultRole",
            "iam:GetInstanceProfile",
        ),
        ("ec2.DescribeSubnets", 403, EC2_DENIED, "the subnets", "ec2:DescribeSubnets"),
        ("emr.ListClusters", 400, EMR_DENIED, "the clusters", "elasticmapreduce:ListClusters"),
    ],
)
def test_a_call_that_is_denied_is_named_with_the_permission_to_grant(
    good: RunRequest,
    deployment: Settings,
    local_aws: LocalAws,
    call: str,
    status: int,
    body: str,
    what: str,
    permission: str,
) -> None:
    aws, _ = failing(call, status, body)
    text = refusal(good, deployment, replace(aws, endpoint_url=local_aws.endpoint))
    operation = call.partition(".")[2]
    assert text.startswith(f"{what}: {operation} is denied; grant {permission} to the credentials in use")


@pytest.mark.parametrize(
    ("call", "status", "body"),
    [
        ("s3.HeadBucket", 400, ""),  # what S3 answers to HEAD, without a word
        ("s3.GetBucketEncryption", 400, "<Error><Code>ExpiredToken</Code><Message>old</Message></Error>"),
        ("iam.GetRole", 403, IAM_DENIED.replace("AccessDenied", "ExpiredToken")),
        ("ec2.DescribeSubnets", 400, EC2_DENIED.replace("UnauthorizedOperation", "RequestExpired")),
        ("emr.ListClusters", 400, EMR_DENIED.replace("AccessDenied", "ExpiredToken")),
    ],
)
def test_expired_credentials(
    good: RunRequest, deployment: Settings, local_aws: LocalAws, call: str, status: int, body: str
) -> None:
    aws, _ = failing(call, status, body)
    text = refusal(good, deployment, replace(aws, endpoint_url=local_aws.endpoint))
    assert "expired" in text
    assert "renew them" in text


def test_throttling_is_tried_again_until_it_ends(
    good: RunRequest, deployment: Settings, local_aws: LocalAws
) -> None:
    body = "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
    aws, seen = failing("s3.GetBucketVersioning", 503, body, times=2)
    patient = Aws(aws.session, REGION, local_aws.endpoint)
    preflight.check(good, deployment, patient, patient)
    assert len(seen) == 3


def test_throttling_that_does_not_end_is_left_for_a_retry_of_the_task(
    good: RunRequest, deployment: Settings, local_aws: LocalAws
) -> None:
    body = json.dumps({"__type": "ThrottlingException", "Message": "Rate exceeded"})
    aws, _ = failing("emr.ListClusters", 400, body)
    aws = replace(aws, endpoint_url=local_aws.endpoint)
    with pytest.raises(StorageError) as caught:
        preflight.check(good, deployment, aws, aws)
    assert str(caught.value) == (
        "the clusters: AWS throttles ListClusters (ThrottlingException), after every retry; "
        "try again in some minutes"
    )


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        ("403", "HeadBucket is denied; grant s3:ListBucket to the credentials in use"),
        ("404", "it does not exist; create it, or name another"),
        ("301", "it is in another region"),
        ("InvalidAccessKeyId", "AWS does not know the credentials"),
        ("SignatureDoesNotMatch", "the credentials' secret is wrong"),
        ("InternalError", "(InternalError)"),
    ],
)
def test_what_aws_refuses_says_what_to_do(aws: Aws, code: str, advice: str) -> None:
    error = ClientError({"Error": {"Code": code, "Message": "no"}}, "HeadBucket")
    with pytest.raises(JobError, match="bucket b") as caught, errors.explained("bucket b", aws):
        raise error
    assert advice in str(caught.value)


# The bucket's state


@pytest.fixture
def bucket(local_aws: LocalAws, request: pytest.FixtureRequest) -> str:
    """A bucket of the test's own, as the preflight wants it."""
    name = "preflight-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    local_aws.set_up_account(name)
    return name


def test_a_bucket_without_default_encryption(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, bucket: str
) -> None:
    local_aws.s3.delete_bucket_encryption(Bucket=bucket)
    text = refusal(replace(good, bucket=bucket), deployment, aws)
    assert text.startswith(f"bucket {bucket} has no default encryption. Set it: aws s3api put-bucket-encr")


@pytest.mark.parametrize("off", preflight.PUBLIC_ACCESS_FLAGS)
def test_a_bucket_with_one_of_the_four_flags_off(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, bucket: str, off: str
) -> None:
    flags = {**dict.fromkeys(preflight.PUBLIC_ACCESS_FLAGS, True), off: False}
    local_aws.s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=flags)
    text = refusal(replace(good, bucket=bucket), deployment, aws)
    assert text.startswith(f"bucket {bucket} does not block public access ({off} off). Set it: aws s3api put")


def test_a_bucket_that_was_never_closed(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, bucket: str
) -> None:
    local_aws.s3.delete_public_access_block(Bucket=bucket)
    text = refusal(replace(good, bucket=bucket), deployment, aws)
    assert all(flag in text for flag in preflight.PUBLIC_ACCESS_FLAGS)


def test_a_bucket_whose_versioning_was_suspended(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, bucket: str
) -> None:
    local_aws.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    text = refusal(replace(good, bucket=bucket), deployment, aws)
    assert text.startswith(f"bucket {bucket} is not versioned (Suspended)")
    assert f"aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Ena" in text


def test_a_bucket_that_was_never_versioned(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    name = "preflight-plain"
    local_aws.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    local_aws.s3.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
    closed = dict.fromkeys(preflight.PUBLIC_ACCESS_FLAGS, True)
    local_aws.s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=closed)
    assert f"bucket {name} is not versioned (never enabled)" in refusal(
        replace(good, bucket=name), deployment, aws
    )


# Regions


def test_a_run_may_narrow_the_regions(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    preflight.check(replace(good, regions=(REGION, "eu-north-1")), deployment, aws, aws)


def test_a_run_that_excludes_the_deployments_region(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, regions=("eu-north-1",)), deployment, aws)
    assert text.startswith(f"this deployment runs in {REGION}, the Param 'regions' allows eu-north-1; add")


def test_a_run_cannot_widen_the_regions(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, regions=(REGION, "us-east-1")), deployment, aws)
    assert text.startswith("the Param 'regions' names us-east-1, where this deployment must not go; allowed:")
    assert "only FRUITS_ALLOWED_REGIONS widens it" in text


# Roles


def test_a_service_role_that_does_not_exist(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, service_role="nobody"), aws)
    assert text.startswith(
        "the service role nobody does not exist in this account: create it, or set FRUITS_"
    )
    assert "FRUITS_EMR_SERVICE_ROLE" in text


def test_an_instance_profile_that_does_not_exist(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, instance_profile="nobody"), aws)
    assert text.startswith("the instance profile nobody does not exist in this account")
    assert "FRUITS_EC2_INSTANCE_PROFILE" in text


def test_an_instance_profile_without_a_role(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    local_aws.client("iam").create_instance_profile(InstanceProfileName="empty")
    text = refusal(good, replace(deployment, instance_profile="empty"), aws)
    assert text.startswith("the instance profile empty has no role")


def test_roles_may_be_named_by_their_arn(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    account = "arn:aws:iam::123456789012"
    roles = replace(
        deployment,
        service_role=f"{account}:role/teams/{deployment.service_role}",
        instance_profile=f"{account}:instance-profile/{deployment.instance_profile}",
    )
    preflight.check(good, roles, aws, aws)


# The network


@dataclass(frozen=True)
class Network:
    """A VPC of the local AWS, without a way to S3."""

    ec2: Any
    vpc: str

    def subnet(self, cidr: str, taken: int = 0) -> str:
        """Id of a new subnet; ``taken`` of its addresses are."""
        subnet = self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=cidr)["Subnet"]["SubnetId"]
        for _ in range(taken):
            self.ec2.create_network_interface(SubnetId=subnet)
        return subnet

    def route_table(self, *subnets: str) -> str:
        table = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        for subnet in subnets:
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        return table

    def main_table(self) -> str:
        of_vpc = [{"Name": "vpc-id", "Values": [self.vpc]}]
        tables = self.ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
        (main,) = (t for t in tables if any(a.get("Main") for a in t["Associations"]))
        return main["RouteTableId"]

    def endpoint(self, *tables: str, service: str = "s3") -> None:
        self.ec2.create_vpc_endpoint(
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{REGION}.{service}",
            VpcEndpointType="Gateway",
            RouteTableIds=list(tables),
        )


@pytest.fixture
def network(local_aws: LocalAws) -> Network:
    ec2 = local_aws.client("ec2")
    return Network(ec2, ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"])


def test_a_subnet_that_does_not_exist(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, subnet_ids=("subnet-0123456789abcdef0",)), aws)
    assert text == (
        f"subnet subnet-0123456789abcdef0 is not in {REGION}; set FRUITS_SUBNET_ID to ids of subnets there"
    )


def test_a_subnet_with_too_few_addresses_for_the_shape(
    good: RunRequest, deployment: Settings, aws: Aws, network: Network
) -> None:
    subnet = network.subnet("10.9.1.0/28", taken=9)  # 16 addresses, 5 of them AWS's own
    text = refusal(good, replace(deployment, subnet_ids=(subnet,)), aws)
    assert text == (
        f"the cluster has 3 nodes, and no subnet has as many free addresses ({subnet} 2); "
        "set FRUITS_SUBNET_ID to a larger one, or use a smaller shape"
    )


def test_one_of_several_subnets_with_room_is_enough_for_fleets_which_choose(
    good: RunRequest, deployment: Settings, aws: Aws, network: Network
) -> None:
    full, roomy = network.subnet("10.9.1.0/28", taken=9), network.subnet("10.9.2.0/24")
    both = replace(deployment, subnet_ids=(full, roomy))
    preflight.check(replace(good, shape="standard"), both, aws, aws)
    assert "3 nodes" in refusal(good, both, aws), "groups go to the first subnet"


def test_a_region_without_default_subnets(deployment: Settings, repo: Path, local_aws: LocalAws) -> None:
    elsewhere = Aws(boto3.Session("test", "test"), "eu-south-2", local_aws.endpoint)
    ec2 = elsewhere.client("ec2")
    for subnet in ec2.describe_subnets()["Subnets"]:
        ec2.delete_subnet(SubnetId=subnet["SubnetId"])
    shape = shapes.load_shape(repo, "small")
    with pytest.raises(JobError, match=r"^eu-south-2 has no default subnet; set FRUITS_SUBNET_ID"):
        preflight.check_network(replace(deployment, region="eu-south-2"), shape, elsewhere)


def test_a_private_deployment_must_name_its_subnet(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, private_subnet=True), aws)
    assert text.startswith("FRUITS_PRIVATE_SUBNET is true, but no subnet is named")


def test_a_private_subnet_needs_a_gateway_to_s3_in_its_own_route_table(
    good: RunRequest, deployment: Settings, aws: Aws, network: Network
) -> None:
    subnet = network.subnet("10.9.1.0/24")
    private = replace(deployment, subnet_ids=(subnet,), private_subnet=True)
    text = refusal(good, private, aws)
    assert text.startswith(f"{subnet} has no route to S3: no gateway endpoint is in its route table")
    assert (
        f"aws ec2 create-vpc-endpoint --vpc-id {network.vpc} --service-name com.amazonaws.{REGION}.s3" in text
    )
    own = network.route_table(subnet)
    network.endpoint(network.main_table())
    network.endpoint(own, service="dynamodb")
    assert "has no route to S3" in refusal(good, private, aws), "neither is of S3 and of this table"
    network.endpoint(own)
    preflight.check(good, private, aws, aws)


def test_the_main_route_table_is_that_of_a_subnet_without_one(
    good: RunRequest, deployment: Settings, aws: Aws, network: Network
) -> None:
    subnet = network.subnet("10.9.1.0/24")
    network.endpoint(network.main_table())
    preflight.check(good, replace(deployment, subnet_ids=(subnet,), private_subnet=True), aws, aws)


def test_a_deployment_that_is_not_private_needs_no_gateway(
    good: RunRequest, deployment: Settings, aws: Aws, network: Network
) -> None:
    preflight.check(good, replace(deployment, subnet_ids=(network.subnet("10.9.1.0/24"),)), aws, aws)


# Other clusters of the run


def alive_cluster(clusters: LocalAws, request: RunRequest, **tags: str) -> str:
    return clusters.run(
        name=aws_clusters.name_of(request.run_key), tags={aws_clusters.RUN_TAG: request.run_key, **tags}
    )


def test_a_living_cluster_of_another_dag_run_is_left_alone(
    good: RunRequest, deployment: Settings, aws: Aws, clusters: LocalAws
) -> None:
    resumed = replace(good, run_key="shared", dag_run="second")
    alive = alive_cluster(clusters, resumed, **{aws_clusters.DAG_RUN_TAG: "first"})
    text = refusal(resumed, deployment, aws)
    assert text.startswith(f"cluster {alive} of run shared is alive, made by DAG run first: wait until")
    assert text.endswith(f"aws emr terminate-clusters --cluster-ids {alive}")


def test_a_living_cluster_that_was_made_by_hand_is_left_alone(
    good: RunRequest, deployment: Settings, aws: Aws, clusters: LocalAws
) -> None:
    run = replace(good, run_key="by-hand")
    alive = alive_cluster(clusters, run)
    assert f"cluster {alive} of run by-hand is alive, made by hand" in refusal(run, deployment, aws)


def test_the_dag_runs_own_cluster_is_no_obstacle_to_its_retry(
    good: RunRequest, deployment: Settings, aws: Aws, clusters: LocalAws
) -> None:
    run = replace(good, run_key="retried")
    alive_cluster(clusters, run, **{aws_clusters.DAG_RUN_TAG: run.dag_run})
    preflight.check(run, deployment, aws, aws)


def test_a_cluster_that_has_ended_is_no_obstacle(
    good: RunRequest, deployment: Settings, aws: Aws, clusters: LocalAws
) -> None:
    run = replace(good, run_key="resumed")
    ended = alive_cluster(clusters, run, **{aws_clusters.DAG_RUN_TAG: "first"})
    clusters.emr.terminate_job_flows(JobFlowIds=[ended])
    eventually(lambda: clusters.state(ended) == "TERMINATED")
    preflight.check(run, deployment, aws, aws)


# Prices and money


def with_type(repo: Path, tmp_path: Path, name: str) -> Path:
    """A home whose shape `small` has core nodes of another instance type."""
    shutil.copytree(repo / "emr_configs", tmp_path / "emr_configs")
    path = tmp_path / "emr_configs" / "small.json"
    shape = json.loads(path.read_text())
    shape["instance_groups"][1]["InstanceType"] = name
    path.write_text(json.dumps(shape))
    return tmp_path


def test_an_instance_type_that_the_region_has_no_price_of(
    good: RunRequest, deployment: Settings, aws: Aws, repo: Path, tmp_path: Path
) -> None:
    text = refusal(good, replace(deployment, home=with_type(repo, tmp_path, "m55.xlarge")), aws)
    assert text.startswith(f"instance type m55.xlarge has no price in {REGION}; there are m5.xlarge, ")
    assert f"python -m fruit_pipeline prices --region {REGION} --refresh --types m55.xlarge" in text


def test_a_region_without_prices(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(good, replace(deployment, region="eu-south-1"), aws)
    assert text.startswith("no prices of eu-south-1: ")
    assert text.endswith("make it with python -m fruit_pipeline prices --region eu-south-1 --refresh")


def test_a_total_that_is_too_dear_already(good: RunRequest, deployment: Settings, aws: Aws) -> None:
    text = refusal(replace(good, total=20_000_000), deployment, aws)
    assert text.startswith("too expensive: 20,000,000 images, if the source has as many, on small cost ")
    assert "above max_cost_usd 5.00" in text
    preflight.check(replace(good, total=20_000_000, max_cost_usd=1000.0), deployment, aws, aws)


def test_images_per_label_are_multiplied_by_the_labels_of_the_source(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws
) -> None:
    text = refusal(replace(good, per_label=1_000_000), deployment, aws)
    assert text.startswith("too expensive: 12,000,000 images")
    text = refusal(replace(good, per_label=3_000_000, labels=("Kiwi", "Plum")), deployment, aws)
    assert text.startswith("too expensive: 6,000,000 images")
    for label in ("a", "b", "c"):
        local_aws.put(f"preflight labels/{label}/1.jpg")
    source = f"s3://{BUCKET}/preflight labels"
    text = refusal(replace(good, per_label=3_000_000, source=source), deployment, aws)
    assert text.startswith("too expensive: 9,000,000 images")


# The source


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


def other_bucket(local_aws: LocalAws, name: str, region: str) -> None:
    client = local_aws.client("s3", region)
    where = {"CreateBucketConfiguration": {"LocationConstraint": region}} if region != "us-east-1" else {}
    client.create_bucket(Bucket=name, **where)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


@pytest.mark.parametrize("region", ["us-west-2", "eu-west-1"])
def test_a_source_in_another_region(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, region: str
) -> None:
    bucket = f"photos-in-{region}"
    other_bucket(local_aws, bucket, region)
    local_aws.client("s3", region).put_object(Bucket=bucket, Key="fruits/a/1.jpg", Body=b"x")
    text = refusal(replace(good, source=f"s3://{bucket}/fruits"), deployment, aws)
    assert text.startswith(
        f"source bucket {bucket} is in {region}, the run in {REGION}; copy its images into"
    )


@pytest.mark.parametrize(("region", "refused"), [("us-east-1", True), ("eu-west-1", False)])
def test_a_bucket_that_is_replicated(
    good: RunRequest, deployment: Settings, aws: Aws, local_aws: LocalAws, region: str, refused: bool
) -> None:
    replica = f"copies-in-{region}"
    other_bucket(local_aws, replica, region)
    local_aws.set_up_account("replicated")
    rule = {
        "ID": "all",
        "Priority": 1,
        "Status": "Enabled",
        "Filter": {},
        "DeleteMarkerReplication": {"Status": "Disabled"},
        "Destination": {"Bucket": f"arn:aws:s3:::{replica}"},
    }
    configuration = {"Role": "arn:aws:iam::123456789012:role/r", "Rules": [rule]}
    local_aws.s3.put_bucket_replication(Bucket="replicated", ReplicationConfiguration=configuration)
    if not refused:
        preflight.check(replace(good, bucket="replicated"), deployment, aws, aws)
        narrow = replace(good, bucket="replicated", regions=(REGION,))
        assert f"is replicated to {replica}, which is in eu-west-1" in refusal(narrow, deployment, aws)
        return
    text = refusal(replace(good, bucket="replicated"), deployment, aws)
    assert text.startswith(
        f"bucket replicated is replicated to {replica}, which is in us-east-1; allowed: eu-"
    )


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
        ({"input_size": 100}, "mobilenet_v2 has no input size 100; there are 96, 128, 160, 192, 224"),
        ({"backbone": "resnet50", "input_size": 160}, "resnet50 has no input size 160; there are 224"),
        ({"precision": "int4"}, "unknown precision 'int4'; expected one of float32, int8"),
        ({"precision": "int8"}, "int8 needs trained weights; with random:0 all features would be zero"),
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
    preflight.check(replace(good, **change), deployment, aws, aws)
