"""Errors of AWS as one line: which call failed, why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fruit_pipeline.aws import clock
from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError, StorageError

# https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html and its siblings:
# the permission for a call does not always have the call's name.
_PERMISSIONS = {
    "HeadBucket": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "GetBucketReplication": "s3:GetReplicationConfiguration",
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
# The codes that botocore's standard mode retries; it has done so by then.
_THROTTLED = (
    *("BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete"),
    *("RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown"),
    *("ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException"),
)

# These three read AWS's message, because AWS sends no code of its own for what they look for.

# EMR may not know a cluster or step yet that it has just created.
_NOT_YET = re.compile(r"(Cluster|Step) id '.*' is not valid|Specified job flow ID does not exist")

# A wrong clock, for services other than S3: the code is that of a wrong secret.
_SKEWED_MESSAGE = re.compile(r"Signature (expired|not yet current)")

# The permission that is missing. It may be another service's (iam:PassRole).
_NAMED_PERMISSION = re.compile(r"not authorized to perform: ([a-z0-9-]+:\w+)")


@contextmanager
def explained(what: str, aws: Aws, *, patient: bool = False) -> Iterator[None]:
    """Turn boto3's errors into one line: JobError, or StorageError, which is retried, if AWS throttles.

    ``what`` begins the line: what was worked on. With ``patient``, StorageError also for all that may pass
    by itself or be fixed meanwhile, such as expired credentials or a fault of AWS: a run that has a cluster
    should not end for these.
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
        transient = code in _EXPIRED or _status(error) >= 500 or bool(_NOT_YET.search(str(error)))
        raise _refusal(patient and transient)(f"{what}: {_advice(code, call, error)}") from error
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
    """Whether AWS may have executed the call that ended in this boto3 error: a lost answer, or status 500."""
    from botocore.exceptions import ClientError, HTTPClientError

    return _status(error) >= 500 if isinstance(error, ClientError) else isinstance(error, HTTPClientError)


def _refusal(transient: bool) -> type[JobError]:
    return StorageError if transient else JobError


def _status(error: Any) -> int:
    """HTTP status of a ClientError; 0 where the answer has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _clock_is_wrong(code: str, call: str, error: Any) -> bool:
    if code in _SKEWED or (code in _BAD_SECRET and _SKEWED_MESSAGE.search(str(error))):
        return True
    # The answer to HEAD has no body with a reason.
    return code == "403" and call.startswith("Head") and abs(clock.skew(error.response)) > clock.MAX_SKEW


def _advice(code: str, call: str, error: Any) -> str:
    if _clock_is_wrong(code, call, error):
        minutes = clock.skew(error.response).total_seconds() / 60
        return (
            f"this machine's clock is {abs(minutes):.0f} min {'behind' if minutes > 0 else 'ahead of'} "
            "AWS's, so AWS refuses its signatures; set the clock, for example by NTP"
        )
    if code in _MISSING:
        return "it does not exist; create it, or name another"
    if code in _DENIED:
        named = _NAMED_PERMISSION.search(str(error))
        permission = named[1] if named else _PERMISSIONS.get(call, f"the permission of {call}")
        return f"{call} is denied; grant {permission} to the credentials in use, in their or its policy"
    if code in _EXPIRED:
        return "the credentials have expired; renew them"
    if code == "400" and call == "HeadBucket":
        # The answer to HEAD has no body with a reason.
        return "the credentials are not accepted; most likely they have expired: renew them"
    if code in _UNKNOWN_KEY:
        return "AWS does not know the credentials; check the Airflow connection or the environment"
    if code in _BAD_SECRET:
        return "the credentials' secret is wrong; check the Airflow connection or the environment"
    if code == "301":
        return "it is in another region"
    return str(error)
