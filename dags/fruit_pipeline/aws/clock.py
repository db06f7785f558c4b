"""AWS's own clock. Ages of what AWS made are measured by it, because this machine's clock may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html: a signature is
# valid for five minutes with most services; S3 allows fifteen.
MAX_SKEW = timedelta(minutes=5)
"""Largest difference to AWS's clock before AWS refuses signatures."""


def server_time(answer: Mapping[str, Any]) -> datetime:
    """When AWS sent a boto3 answer, or an error's ``response``, by AWS's clock; UTC, whole seconds.

    For an answer without a date, the current time by this machine's clock.
    """
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return datetime.now(UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def skew(answer: Mapping[str, Any]) -> timedelta:
    """How far AWS's clock is ahead of this machine's, to about a second and the latency of the answer."""
    return server_time(answer) - datetime.now(UTC)
