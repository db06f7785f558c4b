"""What IAM calls what the code does, and what AWS' own libraries do on its behalf."""

from __future__ import annotations

from aws_calls import Call

PROVIDER = {
    # The base of all: reads the connection. Taking its role needs no right of that role.
    "AwsBaseHook": [],
    # What the links of the task's page ask included.
    "EmrAddStepsOperator": ["AddJobFlowSteps", "DescribeCluster"],
    "EmrCreateJobFlowOperator": ["RunJobFlow", "DescribeCluster", "TerminateJobFlows"],
    # Makes the client; what is asked with it stands in our triggers.
    "EmrHook": [],
    "EmrJobFlowSensor": ["DescribeCluster"],
    "EmrStepSensor": ["DescribeStep", "DescribeCluster"],
    "EmrTerminateJobFlowOperator": ["TerminateJobFlows", "DescribeCluster"],
}

OBSTORE = {
    "delete": ["s3:DeleteObject"],
    "get": ["s3:GetObject"],
    "get_range": ["s3:GetObject"],
    "head": ["s3:GetObject"],
    "list": ["s3:ListBucket"],
    "open_reader": ["s3:GetObject"],
    # Large objects go in parts, and parts are taken back when one fails.
    "put": ["s3:PutObject", "s3:AbortMultipartUpload"],
}

COMMANDS = {"s3 cp": ["s3:ListBucket", "s3:GetObject"]}

PREFIXES = {"emr": "elasticmapreduce"}

# Where S3's actions have another name than the operation.
S3_ACTIONS = {
    "CompleteMultipartUpload": ["s3:PutObject"],
    "CopyObject": ["s3:GetObject", "s3:PutObject"],
    "CreateMultipartUpload": ["s3:PutObject"],
    "DeleteObjects": ["s3:DeleteObject"],
    "GetBucketEncryption": ["s3:GetEncryptionConfiguration"],
    "GetBucketLifecycleConfiguration": ["s3:GetLifecycleConfiguration"],
    "GetPublicAccessBlock": ["s3:GetBucketPublicAccessBlock"],
    "HeadBucket": ["s3:ListBucket"],
    "HeadObject": ["s3:GetObject"],
    "ListMultipartUploads": ["s3:ListBucketMultipartUploads"],
    "ListObjectVersions": ["s3:ListBucketVersions"],
    "ListObjectsV2": ["s3:ListBucket"],
    "ListParts": ["s3:ListMultipartUploadParts"],
    "UploadPart": ["s3:PutObject"],
}

# Allowed on "*" although AWS names a type of resource for them.
WHOLE_ACCOUNT = [
    # Without a billing view it is asked for arn:aws:ce:us-east-1:<account>:/GetCostAndUsage, which is
    # none of the documented forms.
    "ce:GetCostAndUsage",
    # As in https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
    "ssm:UpdateInstanceInformation",
]

# Modules that no DAG uses: commands, for people with credentials of their own.
FOR_PEOPLE = {
    "fruit_pipeline.cluster.clone_shape",
    # Makes what the local AWS needs.
    "fruit_pipeline.demo.local_account",
}


def actions_of(call: Call) -> list[str]:
    if call.service == "s3" and call.operation in S3_ACTIONS:
        return S3_ACTIONS[call.operation]
    return [f"{PREFIXES.get(call.service, call.service)}:{call.operation}"]
