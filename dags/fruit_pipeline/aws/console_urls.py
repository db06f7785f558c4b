"""URLs at which a browser shows objects of S3, and clusters."""

from __future__ import annotations

from urllib.parse import quote

from fruit_pipeline import settings
from fruit_pipeline.settings import Settings


def browser_url(s3_uri: str, deployment: Settings | None = None) -> str:
    """URL in the AWS console of an object, or of a folder if ``s3_uri`` ends with a slash.

    With ``FRUITS_BROWSER_ENDPOINT_URL``, a URL at that endpoint, which shows an object's bytes.
    ``s3n://`` and ``s3a://``, which EMR writes, are accepted too.
    """
    deployment = deployment or settings.load()
    bucket, _, key = s3_uri.partition("://")[2].partition("/")
    if deployment.browser_endpoint_url:
        return f"{deployment.browser_endpoint_url}/{bucket}/{quote(key)}"
    kind = "buckets" if not key or key.endswith("/") else "object"
    region = deployment.region
    return f"https://{region}.console.aws.amazon.com/s3/{kind}/{bucket}?region={region}&prefix={quote(key)}"


def step_log_url(log: str) -> str:
    """URL of a step's log: its folder in the AWS console, or the file itself at another endpoint.

    ``log`` is the file's URI as EMR gives it. The result is empty for a log that is not in S3.
    """
    if "://" not in log:
        return ""
    deployment = settings.load()
    return browser_url(log if deployment.browser_endpoint_url else f"{log.rpartition('/')[0]}/", deployment)


def cluster_console_url(cluster_id: str, region: str) -> str:
    """URL of a cluster in the AWS console."""
    return f"https://{region}.console.aws.amazon.com/emr/home?region={region}#/clusterDetails/{cluster_id}"
