"""What AWS refuses, in one line: which call, why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fruit_pipeline.aws import clock
from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError, StorageError

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
    "RunJobFlow": "elasticmapreduce:RunJobFlow",
    "AddJobFlowSteps": "elasticmapreduce:AddJobFlowSteps",
    "ListSteps": "elasticmapreduce:ListSteps",
    "DescribeStep": "elasticmapreduce:DescribeStep",
    "CancelSteps": "elasticmapreduce:CancelSteps",
    "SetTerminationProtection": "elasticmapreduce:SetTerminationProtection",
    "TerminateJobFlows": "elasticmapreduce:TerminateJobFlows",
    "GetProducts": "pricing:GetProducts",
}

_MISSING = ("404", "NoSuchBucket")
_DENIED = ("403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedOperation")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_UNKNOWN_KEY = ("AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException")
_BAD_SECRET = ("InvalidSignatureException", "SignatureDoesNotMatch")
_SKEWED = ("RequestTimeTooSkewed", "RequestInTheFuture")
# As botocore's standard mode knows them; it has tried again by then.
_THROTTLED = (
    *("BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete"),
    *("RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown"),
    *("ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException"),
)

# EMR may not know for a moment what it has just made.
_NOT_YET = re.compile(r"(Cluster|Step) id '.*' is not valid|Specified job flow ID does not exist")

# What services other than S3 say of a clock that is wrong, under a code that a wrong secret has as well.
_SKEWED_WORDS = re.compile(r"Signature (expired|not yet current)")

# AWS names the permission in most refusals, also where it is another service's (iam:PassRole).
_NAMED = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")


@contextmanager
def explained(what: str, aws: Aws, *, patient: bool = False) -> Iterator[None]:
    """Turn boto3's errors into one line: JobError, or StorageError, which is retried, when AWS throttles.

    ``patient``: StorageError for all that may pass by itself or be mended meanwhile, such as expired
    credentials or a fault of AWS. A run that has a cluster is not given up for these.
    """
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
        passing = code in _EXPIRED or _status(error) >= 500 or bool(_NOT_YET.search(str(error)))
        raise _refusal(patient and passing)(f"{what}: {_advice(code, call, error)}") from error
    except TokenRetrievalError as error:
        raise _refusal(patient)(f"{what}: the credentials have expired; renew them") from error
    except NoCredentialsError as error:
        raise _refusal(patient)(
            f"{what}: no AWS credentials; set the Airflow connection or the environment"
        ) from error
    except EndpointConnectionError as error:
        where = aws.endpoint_url or "AWS"
        raise _refusal(patient)(
            f"{what}: {where} does not answer; is the local AWS running, is the network up?"
        ) from error
    except BotoCoreError as error:
        raise _refusal(patient)(f"{what}: {error}") from error


def may_be_done(error: Exception) -> bool:
    """Whether AWS may have done the call that ended in this error of boto3: its answer was lost, or a 500."""
    from botocore.exceptions import ClientError, HTTPClientError

    return _status(error) >= 500 if isinstance(error, ClientError) else isinstance(error, HTTPClientError)


def _refusal(passing: bool) -> type[JobError]:
    return StorageError if passing else JobError


def _status(error: Any) -> int:
    """HTTP status of a ClientError; 0 where the answer has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _clock_is_wrong(code: str, call: str, error: Any) -> bool:
    if code in _SKEWED or (code in _BAD_SECRET and _SKEWED_WORDS.search(str(error))):
        return True
    # An answer to HEAD has no body that could say so.
    return code == "403" and call.startswith("Head") and abs(clock.ahead(error.response)) > clock.ALLOWED


def _advice(code: str, call: str, error: Any) -> str:
    if _clock_is_wrong(code, call, error):
        minutes = clock.ahead(error.response).total_seconds() / 60
        return (
            f"this machine's clock is {abs(minutes):.0f} min {'behind' if minutes > 0 else 'ahead of'} "
            "AWS's, which refuses what is signed by it; set the clock, by NTP say"
        )
    if code in _MISSING:
        return "it does not exist; create it, or name another"
    if code in _DENIED:
        named = _NAMED.search(str(error))
        permission = named[1] if named else _PERMISSIONS.get(call, f"the permission of {call}")
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
