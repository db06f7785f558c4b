"""The bucket and the roles of a local AWS, as the task `preflight` requires them of any account.

The bucket is encrypted, closed to the public and versioned; the roles are those that EMR and its nodes
assume.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.preflight import PUBLIC_ACCESS_FLAGS
from image_features.errors import JobError


def set_up_account(aws: Aws, bucket: str) -> None:
    """Create the bucket and the roles where they are missing, and set the bucket's properties."""
    s3, iam = aws.client("s3"), aws.client("iam")
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou, s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": aws.region})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    block_all = dict.fromkeys(PUBLIC_ACCESS_FLAGS, True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block_all)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    # The defaults: the deployment's own settings may name roles of a real account.
    defaults = settings.load({})
    profile = defaults.instance_profile
    for role, service in ((defaults.service_role, "elasticmapreduce"), (profile, "ec2")):
        with suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=_trust(service))
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=profile)
        iam.add_role_to_instance_profile(InstanceProfileName=profile, RoleName=profile)


def _trust(service: str) -> str:
    """Policy that lets a service assume a role."""
    principal = {"Service": f"{service}.amazonaws.com"}
    statement = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def set_up_from_environment(bucket: str | None) -> dict[str, str]:
    """Set up the local AWS that AWS_ENDPOINT_URL names, with ``bucket`` or FRUITS_BUCKET.

    Raises JobError without an endpoint, which would be a real account, or without a bucket.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    deployment = settings.load()
    bucket = bucket or deployment.bucket
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "").strip()
    if not endpoint:
        raise JobError("AWS_ENDPOINT_URL names no local AWS; infra/template.yaml sets up a real account")
    if not bucket:
        raise JobError("no bucket: give --bucket, or set FRUITS_BUCKET")
    try:
        set_up_account(Aws.from_environment(deployment.region), bucket)
    except (BotoCoreError, ClientError, ValueError) as error:  # ValueError: not a URL
        raise JobError(f"the local AWS at {endpoint} could not be set up: {error}") from error
    return {"endpoint": endpoint, "bucket": bucket}
