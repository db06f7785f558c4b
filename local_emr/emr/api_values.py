"""Identifiers, timelines and optional members, in the form of EMR's API."""

from __future__ import annotations

import random
import string
from datetime import UTC, datetime
from typing import Any


def new_id(prefix: str) -> str:
    """A random identifier such as ``j-`` and 13 letters and digits."""
    alphabet = string.ascii_uppercase + string.digits
    return prefix + "".join(random.choices(alphabet, k=13))  # noqa: S311 - a name, not a secret


def new_ec2_id() -> str:
    return "i-" + "".join(random.choices("0123456789abcdef", k=17))  # noqa: S311


def timeline(created: float, ended: float | None, **others: float | None) -> dict[str, datetime]:
    """A Timeline of the API from seconds since the epoch; ``others`` are its members by their own names."""
    times = {"CreationDateTime": created, **others, "EndDateTime": ended}
    return {name: datetime.fromtimestamp(at, UTC) for name, at in times.items() if at is not None}


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
