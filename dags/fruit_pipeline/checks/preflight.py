"""Checks before any upload and any cost; the message of each refusal says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fruit_pipeline.aws.clusters import DAG_RUN_TAG, clusters_of_run
from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster.shapes import Shape, load_shape
from fruit_pipeline.cost import estimate, prices
from fruit_pipeline.model.backbones import MIN_IMAGES, check_precision
from fruit_pipeline.run.request import RunRequest
from fruit_pipeline.sample.labels import FIRST, ONE
from fruit_pipeline.sample.sources import Source
from fruit_pipeline.settings import Settings
from image_features.contract import FeaturesMarker
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.reuse import features_of
from image_features.storage import local_path, normalise_uri

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-control-block-public-access.html
PUBLIC_ACCESS_FLAGS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")

_SETUP = "docs/aws.md has the whole set-up"


def check(request: RunRequest, settings: Settings, aws: Aws, source_aws: Aws) -> None:
    """Raise JobError for the first reason why the run would fail, or break a rule of the deployment.

    ``source_aws`` reads an ``s3://`` source. Checks that need no call of AWS come first.
    """
    check_region(settings, request.regions)
    shape = load_shape(settings.home, request.shape)
    price_list = prices.load(settings.home, settings.region)
    for nodes in shape.nodes:
        for name in nodes.weights:
            price_list.of(name)
    request.model.check_weights_file()
    check_precision(request.precision, request.model)
    if request.precision == "int8" and request.total is not None and request.total < MIN_IMAGES:
        raise JobError(
            f"int8 is calibrated on images of the sample and needs {MIN_IMAGES}, but only "
            f"{request.total} are to be drawn; draw more, or use precision float32"
        )
    request.sample(shape.worker_cores)
    if request.components is None and request.variance is None:
        raise JobError("set the number of components or the variance to keep")
    if request.total is not None and request.components is not None and request.components > request.total:
        raise JobError(
            f"{request.components} components asked for, but only {request.total} images; "
            f"at most {request.total} components are possible"
        )
    check_bucket(request.bucket, settings, aws, request.regions)
    check_roles(settings, aws)
    check_network(settings, shape, aws)
    check_no_other_cluster(aws, request.run_key, request.dag_run)
    check_source(request.source, source_aws, request.label_from, _payer(settings))
    if request.reuse:
        check_reuse(request.reuse, request, aws)
    check_budget(request, settings, shape, price_list, source_aws)


def check_region(settings: Settings, regions: tuple[str, ...] = ()) -> None:
    """The deployment's region must be among its allowed regions, and among the run's, a part of these."""
    allowed = settings.allowed_regions
    if settings.region not in allowed:
        raise JobError(
            f"region {settings.region} is not allowed; allowed: {', '.join(allowed)}. "
            "Set FRUITS_REGION, or FRUITS_ALLOWED_REGIONS where data may live elsewhere"
        )
    wider = [region for region in regions if region not in allowed]
    if wider:
        raise JobError(
            f"the Param 'regions' names {', '.join(wider)}, where this deployment must not go; allowed: "
            f"{', '.join(allowed)}. A run can narrow that list; only FRUITS_ALLOWED_REGIONS widens it"
        )
    if regions and settings.region not in regions:
        raise JobError(
            f"this deployment runs in {settings.region}, the Param 'regions' allows {', '.join(regions)}; "
            f"add {settings.region}, or use a deployment of one of those"
        )


def check_bucket(bucket: str, settings: Settings, aws: Aws, regions: tuple[str, ...] = ()) -> None:
    """The bucket must be in the deployment's region, encrypted, closed to the public and versioned.

    It must not be replicated out of the allowed regions: ``regions`` of the run, or the deployment's.
    """
    s3 = aws.client("s3")
    with explained(f"bucket {bucket}", aws):
        head = s3.head_bucket(Bucket=bucket)
    region = head.get("BucketRegion") or head["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if region and region != settings.region:
        raise JobError(
            f"bucket {bucket} is in {region}, the run in {settings.region}; "
            "use a bucket of this region, or set FRUITS_REGION"
        )
    encryption: Mapping[str, Any] = {}
    access_block: Mapping[str, Any] = {}
    with explained(f"bucket {bucket}", aws):
        with _ignore("ServerSideEncryptionConfigurationNotFoundError"):
            encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]
        with _ignore("NoSuchPublicAccessBlockConfiguration"):
            access_block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
        versioning = s3.get_bucket_versioning(Bucket=bucket).get("Status", "never enabled")
        replicas = _replicas(s3, bucket)
    if not any("ApplyServerSideEncryptionByDefault" in rule for rule in encryption.get("Rules", [])):
        raise JobError(
            f"bucket {bucket} has no default encryption. Set it: aws s3api put-bucket-encryption "
            f"--bucket {bucket} --server-side-encryption-configuration "
            '\'{"Rules":[{"ApplyServerSideEncryptionByDefault":{"SSEAlgorithm":"AES256"}}]}\''
        )
    open_flags = [flag for flag in PUBLIC_ACCESS_FLAGS if not access_block.get(flag)]
    if open_flags:
        flags = ",".join(f"{flag}=true" for flag in PUBLIC_ACCESS_FLAGS)
        raise JobError(
            f"bucket {bucket} does not block public access ({', '.join(open_flags)} off). Set it: "
            f"aws s3api put-public-access-block --bucket {bucket} --public-access-block-configuration {flags}"
        )
    if versioning != "Enabled":
        raise JobError(
            f"bucket {bucket} is not versioned ({versioning}): replaced objects could not be restored. Set "
            f"it: aws s3api put-bucket-versioning --bucket {bucket} --versioning-configuration Status=Enabled"
        )
    allowed = regions or settings.allowed_regions
    for replica in replicas:
        with explained(f"bucket {replica}, a replica of {bucket}", aws):
            region = _region_of(s3, replica) or "a region that AWS does not tell"
        if region not in allowed:
            raise JobError(
                f"bucket {bucket} is replicated to {replica}, which is in {region}; allowed: "
                f"{', '.join(allowed)}. Remove that replication rule, or use another bucket"
            )


def _replicas(s3: Any, bucket: str) -> list[str]:
    """The buckets that a bucket's replication rules copy its objects to."""
    rules: list[Any] = []
    with _ignore("ReplicationConfigurationNotFoundError"):
        rules = s3.get_bucket_replication(Bucket=bucket)["ReplicationConfiguration"]["Rules"]
    enabled = (rule["Destination"]["Bucket"] for rule in rules if rule["Status"] == "Enabled")
    return sorted({arn.rpartition(":")[2] for arn in enabled})


def _region_of(s3: Any, bucket: str) -> str | None:
    """Region of a bucket, which AWS names in a header even if it denies the call; None without one."""
    from botocore.exceptions import ClientError

    try:
        answer = s3.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    headers = answer["ResponseMetadata"].get("HTTPHeaders", {})
    return answer.get("BucketRegion") or headers.get("x-amz-bucket-region")


def check_roles(settings: Settings, aws: Aws) -> None:
    """EMR's service role and the nodes' instance profile must exist, the profile with a role."""
    iam = aws.client("iam")
    role = settings.service_role.rpartition("/")[2]  # the name of an ARN
    profile = settings.instance_profile.rpartition("/")[2]
    role_exists = False
    with explained(f"service role {role}", aws), _ignore("NoSuchEntity"):
        iam.get_role(RoleName=role)
        role_exists = True
    if not role_exists:
        raise JobError(
            f"the service role {role} does not exist in this account: create it, or set "
            f"FRUITS_EMR_SERVICE_ROLE to the service role of EMR; {_SETUP}"
        )
    roles: list[Any] | None = None
    with explained(f"instance profile {profile}", aws), _ignore("NoSuchEntity"):
        roles = iam.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]
    if roles is None:
        raise JobError(
            f"the instance profile {profile} does not exist in this account: create it, or set "
            f"FRUITS_EC2_INSTANCE_PROFILE to that of the nodes; {_SETUP}"
        )
    if not roles:
        raise JobError(
            f"the instance profile {profile} has no role, so the nodes could not read anything: "
            f"aws iam add-role-to-instance-profile --instance-profile-name {profile} --role-name <role>"
        )


def check_network(settings: Settings, shape: Shape, aws: Aws) -> None:
    """A subnet must have a free address for each node; with FRUITS_PRIVATE_SUBNET, a route to S3 as well.

    Without FRUITS_SUBNET_ID, EMR uses a default subnet of the region.
    """
    ec2, subnet_ids = aws.client("ec2"), list(settings.subnet_ids)
    if shape.instance_groups:
        subnet_ids = subnet_ids[:1]  # only for fleets does EMR choose
    if settings.private_subnet and not subnet_ids:
        raise JobError(
            "FRUITS_PRIVATE_SUBNET is true, but no subnet is named: default subnets are public. "
            "Set FRUITS_SUBNET_ID"
        )
    subnets: list[Mapping[str, Any]] = []
    with explained("the subnets", aws), _ignore("InvalidSubnetID.NotFound"):
        defaults = {"Filters": [{"Name": "default-for-az", "Values": ["true"]}]}
        selection: dict[str, Any] = {"SubnetIds": subnet_ids} if subnet_ids else defaults
        subnets = ec2.describe_subnets(**selection)["Subnets"]
    if not subnets:
        raise JobError(
            f"{_subnets(subnet_ids)} not in {settings.region}; set FRUITS_SUBNET_ID to ids of subnets there"
            if subnet_ids
            else f"{settings.region} has no default subnet; set FRUITS_SUBNET_ID to a subnet for the clusters"
        )
    nodes = estimate.most_instances(shape)
    roomy = [subnet for subnet in subnets if subnet["AvailableIpAddressCount"] >= nodes]
    if not roomy:
        free = ", ".join(f"{subnet['SubnetId']} {subnet['AvailableIpAddressCount']}" for subnet in subnets)
        raise JobError(
            f"the cluster has {nodes} nodes, and no subnet has as many free addresses ({free}); "
            "set FRUITS_SUBNET_ID to a larger one, or use a smaller shape"
        )
    if settings.private_subnet:
        with explained("the route to S3", aws):
            cut_off = [subnet["SubnetId"] for subnet in roomy if not _has_route_to_s3(ec2, subnet, settings)]
        if cut_off:
            raise JobError(
                f"{', '.join(cut_off)} has no route to S3: no gateway endpoint is in its route table, and "
                "without internet the nodes could not read anything. Create one: aws ec2 create-vpc-endpoint "
                f"--vpc-id {roomy[0]['VpcId']} --service-name com.amazonaws.{settings.region}.s3 "
                "--route-table-ids <that of the subnet>"
            )


def _subnets(ids: list[str]) -> str:
    return f"subnet {ids[0]} is" if len(ids) == 1 else f"one of the subnets {', '.join(ids)} is"


def _has_route_to_s3(ec2: Any, subnet: Mapping[str, Any], settings: Settings) -> bool:
    """Whether an S3 gateway endpoint is in the route table that applies to the subnet."""
    of_vpc = [{"Name": "vpc-id", "Values": [subnet["VpcId"]]}]
    tables = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    main: set[str] = set()
    own: set[str] = set()
    for table in tables:
        for association in table["Associations"]:
            if association.get("SubnetId") == subnet["SubnetId"]:
                own.add(table["RouteTableId"])
            if association.get("Main"):
                main.add(table["RouteTableId"])
    return any(
        endpoint["ServiceName"] == f"com.amazonaws.{settings.region}.s3"
        and endpoint["VpcEndpointType"] == "Gateway"
        and endpoint["State"].lower() == "available"
        and (own or main) & set(endpoint.get("RouteTableIds", []))
        for endpoint in ec2.describe_vpc_endpoints(Filters=of_vpc)["VpcEndpoints"]
    )


def check_no_other_cluster(aws: Aws, run_key: str, dag_run: str) -> None:
    """No cluster of the run may be alive except this DAG run's own, which its tasks reuse.

    Of two DAG runs on one cluster, the first to finish would terminate it under the other.
    """
    emr = aws.client("emr")
    with explained("the clusters", aws):
        alive = clusters_of_run(emr, run_key)
    for cluster in alive:
        owner = cluster.tags.get(DAG_RUN_TAG)
        if owner != dag_run:
            raise JobError(
                f"cluster {cluster.id} of run {run_key} is alive, made by "
                f"{f'DAG run {owner}' if owner else 'hand'}: wait until it has ended, clear that DAG run's "
                "failed task to continue with it, or, if nobody uses it any more: "
                f"aws emr terminate-clusters --cluster-ids {cluster.id}"
            )


def check_budget(
    request: RunRequest, settings: Settings, shape: Shape, price_list: prices.Prices, source_aws: Aws
) -> None:
    """Refuse a run whose cost is above its limit for the number of images that it requests.

    ``plan_cluster`` checks again with the numbers of the sample; a run of all images is checked only there.
    """
    images = request.total
    if request.per_label is not None:
        labels = len(request.labels) or _count_labels(request, source_aws, _payer(settings))
        images = request.per_label * labels if labels else None
    if images is None:
        return
    cost = estimate.estimate(request.work(images), request.shape, shape, price_list, settings.poll_seconds)
    estimate.check_budget(cost, request.max_cost_usd, coarse=True)


def _count_labels(request: RunRequest, aws: Aws, payer: Mapping[str, str]) -> int | None:
    """Number of labels of the source, at least 1; None where only a listing of all images shows it."""
    if request.label_from == ONE:
        return 1
    if request.label_from not in (FIRST, "1"):
        return None
    uri = normalise_uri(request.source)
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        pages = (
            aws.client("s3")
            .get_paginator("list_objects_v2")
            .paginate(Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", Delimiter="/", **payer)
        )
        with explained(f"source bucket {bucket}", aws):
            return max(1, sum(len(page.get("CommonPrefixes", [])) for page in pages))
    return max(1, sum(entry.is_dir() for entry in local_path(uri).iterdir()))


def check_reuse(earlier: str, request: RunRequest, aws: Aws) -> None:
    """The earlier run must have finished features. Their backbone is compared once this run's is exported."""
    if earlier == request.layout.root:
        raise JobError(f"{earlier} is this run itself: to resume it, leave 'reuse' empty")
    bucket = earlier.removeprefix("s3://").partition("/")[0]
    with explained(f"bucket {bucket} of the earlier run", aws):
        aws.client("s3").head_bucket(Bucket=bucket)
    read_document(FeaturesMarker, aws.storage(features_of(earlier)))


def _payer(settings: Settings) -> dict[str, str]:
    """The argument of S3's calls that says who pays for reading the source."""
    return {"RequestPayer": "requester"} if settings.source_requester_pays else {}


def check_source(
    source: str, aws: Aws, label_from: str = FIRST, payer: Mapping[str, str] | None = None
) -> None:
    """The source must exist, not be empty, and be in the run's region; ``draw_sample`` lists it in full."""
    uri = normalise_uri(source)
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        s3 = aws.client("s3")
        with explained(f"source bucket {bucket}", aws):
            region = _region_of(s3, bucket)
        if region and region != aws.region:  # before any object is listed: boto3 follows to any region
            raise JobError(
                f"source bucket {bucket} is in {region}, the run in {aws.region}; copy its images into a "
                f"bucket of {aws.region}, or use a deployment in {region}, if data may be there"
            )
        with explained(f"source bucket {bucket}", aws):
            listing = s3.list_objects_v2(
                Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1, **(payer or {})
            )
        if not listing["KeyCount"]:
            raise JobError(f"{uri} is empty; expected <source>/<label>/<image>")
        return
    folder = local_path(uri)
    if not folder.exists():
        raise JobError(f"the source folder {folder} does not exist on this worker")
    try:
        if not any(folder.iterdir()):
            raise JobError(f"the source folder {folder} is empty; expected <source>/<label>/<image>")
    except OSError as error:
        raise JobError(f"the source folder {folder} cannot be listed: {error.strerror}") from error
    if not any(entry.is_dir() for entry in folder.iterdir()):
        # Its JobError says what the folder has instead of label folders.
        Source(source).list(label_from)


@contextmanager
def _ignore(code: str) -> Iterator[None]:
    """Ignore AWS's error ``code``, which says that something does not exist; the caller handles that."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise
