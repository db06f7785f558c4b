"""Set up a local AWS as a careful account, so that the preflight checks pass as they do on AWS.

A bucket that is encrypted, closed to the public and versioned, and the roles that EMR and its nodes
take. What is there already stays. Without an endpoint in the environment it is refused: a real account
is made by infra/template.yaml.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.preflight import PUBLIC_ACCESS_FLAGS
from image_features.errors import JobError


def set_up_account(aws: Aws, bucket: str) -> None:
    """Make the bucket and the roles, or what of them is missing."""
    s3, iam = aws.client("s3"), aws.client("iam")
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws.region})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    closed = dict.fromkeys(PUBLIC_ACCESS_FLAGS, True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=closed)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    # A run's own settings are not asked: they name a real account's roles.
    defaults = settings.load({})
    profile = defaults.instance_profile
    for role, service in ((defaults.service_role, "elasticmapreduce"), (profile, "ec2")):
        with suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=_trust(service))
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=profile)
        iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=profile)


def _trust(service: str) -> str:
    """Policy by which a service may take a role."""
    who = {"Service": f"{service}.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": who, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def from_environment(bucket: str | None) -> dict[str, Any]:
    """Set up the local AWS that AWS_ENDPOINT_URL names. Raises JobError when there is none, or no bucket."""
    from botocore.exceptions import BotoCoreError, ClientError

    deployment = settings.load()
    bucket = bucket or deployment.bucket
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "").strip()
    if not endpoint:
        raise JobError("AWS_ENDPOINT_URL names no local AWS; a real account is made by infra/template.yaml")
    if not bucket:
        raise JobError("no bucket: give --bucket, or set FRUITS_BUCKET")
    try:
        set_up_account(Aws.from_environment(deployment.region), bucket)
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: no URL
        raise JobError(f"the local AWS at {endpoint} could not be set up: {error}") from error
    return {"endpoint": endpoint, "bucket": bucket}
