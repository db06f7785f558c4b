"""AWS clients and S3 access, from an Airflow connection or from the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fruit_pipeline.settings import Settings
from image_features.errors import JobError
from image_features.storage import S3Access, Storage

if TYPE_CHECKING:
    import boto3

_URL = re.compile(r"https?://[^/\s]+")


@dataclass(frozen=True)
class Aws:
    """A boto3 session, its region, and an endpoint in place of AWS's own if the connection names one."""

    session: boto3.Session
    region: str
    endpoint_url: str | None = None

    @staticmethod
    def from_connection(conn_id: str, region: str) -> Aws:
        """Use an Airflow connection, or boto3's own chain if the connection is not defined.

        Raises JobError if the connection names an AWS profile that does not exist, or an endpoint that is no
        URL.
        """
        # Commands use this module without Airflow, whose import takes seconds.
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

        hook = AwsBaseHook(aws_conn_id=conn_id, region_name=region)
        with _known_profile():
            session = hook.get_session()
        endpoint = hook.conn_config.endpoint_url
        if endpoint and not _URL.match(endpoint):
            raise JobError(
                f"the endpoint_url of the Airflow connection {conn_id!r} is no URL; give "
                "http(s)://<host>:<port>, or leave it out for AWS itself"
            )
        return Aws(session, region, endpoint)

    @staticmethod
    def of_deployment(deployment: Settings) -> Aws:
        """Use the deployment's Airflow connection and region."""
        return Aws.from_connection(deployment.aws_conn_id, deployment.region)

    @staticmethod
    def from_environment(region: str) -> Aws:
        """Use boto3's own chain: environment, profile, instance role. Raises JobError as above."""
        import boto3

        with _known_profile():
            return Aws(boto3.Session(region_name=region), region)

    def client(self, service: str, region: str | None = None, **config: Any) -> Any:
        """A boto3 client, by default in the session's region; ``config`` is passed to botocore's Config.

        botocore's standard mode retries throttling and transient faults, up to six attempts in all.
        """
        from botocore.config import Config

        defaults: dict[str, Any] = {"retries": {"mode": "standard", "total_max_attempts": 6}}
        return self.session.client(
            service,
            region_name=region or self.region,
            endpoint_url=self.endpoint_url,
            config=Config(**{**defaults, **config}),
        )

    def s3_access(self, *, request_payer: bool = False) -> S3Access:
        """The session's credentials, region and endpoint for obstore."""
        from obstore.auth.boto3 import Boto3CredentialProvider

        return S3Access(self.region, self.endpoint_url, Boto3CredentialProvider(self.session), request_payer)

    def storage(self, uri: str, *, create: bool = False) -> Storage:
        """Storage at an ``s3://`` prefix or in a local folder; ``create`` makes a missing folder."""
        return Storage(uri, self.s3_access() if uri.startswith("s3://") else None, create=create)


@contextmanager
def _known_profile() -> Iterator[None]:
    from botocore.exceptions import ProfileNotFound

    try:
        yield
    except ProfileNotFound as error:
        raise JobError(
            f"the AWS profile {error.kwargs['profile']!r} does not exist; set AWS_PROFILE, or the Airflow "
            "connection's profile, to one that `aws configure list-profiles` shows, or to none"
        ) from None
