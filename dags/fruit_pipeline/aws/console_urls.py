"""Where a browser shows what lies in S3."""

from __future__ import annotations

from urllib.parse import quote

from fruit_pipeline import settings
from fruit_pipeline.settings import Settings


def browser_url(s3_uri: str, deployment: Settings | None = None) -> str:
    """URL of an object, or with a slash at the end of a folder, in the AWS console.

    With ``FRUITS_BROWSER_ENDPOINT_URL`` it is that endpoint's own, which shows an object's bytes.
    ``s3n://`` and ``s3a://``, as EMR writes them, are taken too.
    """
    deployment = deployment or settings.load()
    bucket, _, key = s3_uri.partition("://")[2].partition("/")
    if deployment.browser_endpoint_url:
        return f"{deployment.browser_endpoint_url}/{bucket}/{quote(key)}"
    kind = "buckets" if not key or key.endswith("/") else "object"
    region = deployment.region
    return f"https://{region}.console.aws.amazon.com/s3/{kind}/{bucket}?region={region}&prefix={quote(key)}"


def step_log_url(log: str) -> str:
    """URL of a step's log: its folder in the AWS console, the file itself at another endpoint.

    ``log`` is its file as EMR names it; empty for a log that is not in S3.
    """
    if "://" not in log:
        return ""
    deployment = settings.load()
    return browser_url(log if deployment.browser_endpoint_url else f"{log.rpartition('/')[0]}/", deployment)
