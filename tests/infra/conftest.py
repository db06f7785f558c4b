"""The template, read once, and a home for Airflow, whose Params and provider some tests read."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from typing import Any

import pytest

from infra import plan

# Airflow makes its home when it is imported, which only the tests do.
if "AIRFLOW_HOME" not in os.environ:
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="airflow-infra-tests-")
    atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)


@pytest.fixture(scope="session")
def template() -> dict[str, Any]:
    return plan.load()
