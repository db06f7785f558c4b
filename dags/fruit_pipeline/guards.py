"""What is checked before a byte moves or a cent is spent; each refusal says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fruit_pipeline.aws import Aws
from fruit_pipeline.cluster import load_shape
from fruit_pipeline.precision import MIN_IMAGES, check_precision
from fruit_pipeline.request import RunRequest
from fruit_pipeline.sample import SampleRequest
from fruit_pipeline.settings import Settings
from fruit_pipeline.sources import Source
from image_features.errors import JobError
from image_features.storage import normalise_uri


def check(request: RunRequest, settings: Settings, aws: Aws, source_aws: Aws) -> None:
    """Raise JobError for the first thing that would make the run fail or go where it must not.

    ``source_aws`` reaches an ``s3://`` source.
    """
    check_region(settings)
    shape = load_shape(settings.home, request.shape)
    request.model.check_weights_file()
    check_precision(request.precision, request.model)
    if request.precision == "int8" and request.total is not None and request.total < MIN_IMAGES:
        raise JobError(
            f"int8 is calibrated on images of the sample and needs {MIN_IMAGES}, but only "
            f"{request.total} are to be drawn; draw more, or take precision float32"
        )
    SampleRequest(request.source, request.per_label, request.total, cores=shape.worker_cores)
    if request.components is None and request.variance is None:
        raise JobError("set the number of components or the variance to keep")
    if request.total is not None and request.components is not None and request.components > request.total:
        raise JobError(
            f"{request.components} components asked for, but only {request.total} images; "
            f"at most {request.total} components are possible"
        )
    check_bucket(request.bucket, settings, aws)
    check_source(request.source, source_aws)


def check_region(settings: Settings) -> None:
    """The deployment's region must be on its list."""
    if settings.region not in settings.allowed_regions:
        raise JobError(
            f"region {settings.region} is not allowed; allowed: {', '.join(settings.allowed_regions)}. "
            "Set FRUITS_REGION, or FRUITS_ALLOWED_REGIONS where data may live elsewhere"
        )


def check_bucket(bucket: str, settings: Settings, aws: Aws) -> None:
    """The bucket must exist, be reachable and lie in the deployment's region."""
    with explained(f"bucket {bucket}", aws):
        head = aws.client("s3").head_bucket(Bucket=bucket)
    found = head.get("BucketRegion") or head["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region")
    if found and found != settings.region:
        raise JobError(
            f"bucket {bucket} lies in {found}, the run in {settings.region}; "
            "use a bucket of this region, or set FRUITS_REGION"
        )


def check_source(source: str, aws: Aws) -> None:
    """The source must exist and hold something; the sample task looks at it more closely."""
    uri = normalise_uri(source)
    if uri.startswith("s3://"):
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        with explained(f"source bucket {bucket}", aws):
            listing = aws.client("s3").list_objects_v2(
                Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", MaxKeys=1
            )
        if not listing["KeyCount"]:
            raise JobError(f"{uri} is empty; expected <source>/<label>/<image>")
        return
    folder = Path(uri.removeprefix("file://"))
    if not folder.exists():
        raise JobError(f"the source folder {folder} does not exist on this worker")
    try:
        if not any(folder.iterdir()):
            raise JobError(f"the source folder {folder} is empty; expected <source>/<label>/<image>")
    except OSError as error:
        raise JobError(f"the source folder {folder} cannot be listed: {error.strerror}") from error
    if not any(entry.is_dir() for entry in folder.iterdir()):
        Source(source).list()  # raises, saying what is there instead of label folders


@contextmanager
def explained(what: str, aws: Aws) -> Iterator[None]:
    """Turn boto3's errors into one line that says what to do."""
    from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        advice = {
            "404": "it does not exist; create it, or name another",
            "NoSuchBucket": "it does not exist; create it, or name another",
            "403": "access is denied; check the credentials and the bucket's policy",
            "AccessDenied": "access is denied; check the credentials and the bucket's policy",
            "301": "it lies in another region",
            "ExpiredToken": "the credentials have expired; renew them",
        }.get(code, str(error))
        raise JobError(f"{what}: {advice}") from error
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
