"""AWS's own clock, by which the ages of what AWS made are measured: this machine's may be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html: a signature is
# good for five minutes with most services; S3 allows fifteen.
ALLOWED = timedelta(minutes=5)
"""By how much a clock may differ from AWS's before its signatures are refused."""


def told_at(answer: Mapping[str, Any]) -> datetime:
    """When AWS gave a boto3 answer, or an error's ``response``, by its own clock; UTC, whole seconds.

    An answer without a date is taken to be of now, by this machine's clock.
    """
    date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        moment = parsedate_to_datetime(date)
    except ValueError:
        return datetime.now(UTC)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def ahead(answer: Mapping[str, Any]) -> timedelta:
    """By how much AWS's clock is ahead of this machine's; to a second, and the way of the answer."""
    return told_at(answer) - datetime.now(UTC)
