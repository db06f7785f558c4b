"""What AWS refuses, in one line: which call, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fruit_pipeline.aws import Aws
from image_features.errors import JobError
from image_features.storage import StorageError

# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html and its siblings:
# what grants a call is not always named like it.
_PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetRole": "iam:GetRole",
    "GetInstanceProfile": "iam:GetInstanceProfile",
    "DescribeSubnets": "ec2:DescribeSubnets",
    "DescribeVpcEndpoints": "ec2:DescribeVpcEndpoints",
    "DescribeRouteTables": "ec2:DescribeRouteTables",
    "DescribeSpotPriceHistory": "ec2:DescribeSpotPriceHistory",
    "ListClusters": "elasticmapreduce:ListClusters",
    "DescribeCluster": "elasticmapreduce:DescribeCluster",
    "ListInstances": "elasticmapreduce:ListInstances",
    "GetProducts": "pricing:GetProducts",
}

_MISSING = ("404", "NoSuchBucket")
_DENIED = ("403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedOperation")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN_KEY = ("AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException")
_BAD_SECRET = ("InvalidSignatureException", "SignatureDoesNotMatch")
# As botocore's standard mode knows them; it has tried again by then.
_THROTTLED = (
    *("BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete"),
    *("RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown"),
    *("ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException"),
)


@contextmanager
def explained(what: str, aws: Aws) -> Iterator[None]:
    """Turn boto3's errors into one line. Raises StorageError, which is retried, when AWS throttles."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        EndpointConnectionError,
        NoCredentialsError,
        TokenRetrievalError,
    )

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        call = error.operation_name
        if code in _THROTTLED:
            raise StorageError(
                f"{what}: AWS throttles {call} ({code}), after every retry; try again in some minutes"
            ) from error
        raise JobError(f"{what}: {_advice(code, call, error)}") from error
    except TokenRetrievalError as error:
        raise JobError(f"{what}: the credentials have expired; renew them") from error
    except NoCredentialsError as error:
        raise JobError(
            f"{what}: no AWS credentials; set the Airflow connection or the environment"
        ) from error
    except EndpointConnectionError as error:
        where = aws.endpoint_url or "AWS"
        raise JobError(
            f"{what}: {where} does not answer; is the local AWS running, is the network up?"
        ) from error
    except BotoCoreError as error:
        raise JobError(f"{what}: {error}") from error


def _advice(code: str, call: str, error: Exception) -> str:
    if code in _MISSING:
        return "it does not exist; create it, or name another"
    if code in _DENIED:
        permission = _PERMISSIONS.get(call, f"the permission of {call}")
        return f"{call} is denied; grant {permission} to the credentials in use, in their or its policy"
    if code in _EXPIRED:
        return "the credentials have expired; renew them"
    if code == "400" and call == "HeadBucket":
        # An answer to HEAD has no body that could say so.
        return "the credentials are not accepted; they have expired, most likely: renew them"
    if code in _UNKNOWN_KEY:
        return "AWS does not know the credentials; check the Airflow connection or the environment"
    if code in _BAD_SECRET:
        return "the credentials' secret is wrong; check the Airflow connection or the environment"
    if code == "301":
        return "it lies in another region"
    return str(error)
