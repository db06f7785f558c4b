"""The template, read once."""

from __future__ import annotations

from typing import Any

import pytest

from infra import plan


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    return plan.load()
