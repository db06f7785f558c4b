"""IAM's actions for the operations of the code, of Airflow's provider and of obstore."""

from __future__ import annotations

from aws_calls import Call

PROVIDER = {
    # The base class, which reads the connection. Assuming a role needs no permission of that role.
    "AwsBaseHook": [],
    # Including the requests of the links on the task's page.
    "EmrAddStepsOperator": ["AddJobFlowSteps", "DescribeCluster"],
    "EmrCreateJobFlowOperator": ["RunJobFlow", "DescribeCluster", "TerminateJobFlows"],
    # Creates the client; our triggers make the requests.
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
    # Large objects are sent in parts, and an upload with a failed part is aborted.
    "put": ["s3:PutObject", "s3:AbortMultipartUpload"],
}

COMMANDS = {"s3 cp": ["s3:ListBucket", "s3:GetObject"]}

PREFIXES = {"emr": "elasticmapreduce"}

# S3's actions that do not have the name of the operation.
S3_ACTIONS = {
    "CompleteMultipartUpload": ["s3:PutObject"],
    "CopyObject": ["s3:GetObject", "s3:PutObject"],
    "CreateMultipartUpload": ["s3:PutObject"],
    "DeleteObjects": ["s3:DeleteObject"],
    "GetBucketEncryption": ["s3:GetEncryptionConfiguration"],
    "GetBucketReplication": ["s3:GetReplicationConfiguration"],
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

# Actions that are allowed on "*", although AWS has a resource type for them.
WHOLE_ACCOUNT = [
    # Without a billing view, the resource is arn:aws:ce:us-east-1:<account>:/GetCostAndUsage, which is
    # not one of the documented forms.
    "ce:GetCostAndUsage",
    # As in https://docs.aws.amazon.com/systems-manager/latest/userguide/getting-started-create-iam-instance-profile.html
    "ssm:UpdateInstanceInformation",
]

# Modules of commands that no DAG uses. People run them with their own credentials.
FOR_PEOPLE = {
    "fruit_pipeline.cluster.clone_shape",
    # Creates bucket and roles in the local AWS.
    "fruit_pipeline.demo.local_account",
}


def actions_of(call: Call) -> list[str]:
    if call.service == "s3" and call.operation in S3_ACTIONS:
        return S3_ACTIONS[call.operation]
    return [f"{PREFIXES.get(call.service, call.service)}:{call.operation}"]
