"""Airflow's home for the tests of a process, and its connection to a local AWS."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path

from support.local_aws import REGION

CONNECTION = "aws_tests"
CONNECTION_VARIABLE = f"AIRFLOW_CONN_{CONNECTION.upper()}"

PROVIDER_SWITCHES = (
    ("operators", "default_deferrable"),
    ("openlineage", "spark_inject_parent_job_info"),
    ("openlineage", "spark_inject_transport_info"),
)
"""Section and option of what a deployment can switch on for every EMR operator of the Amazon provider.

All are on in the tests, as they may be in a deployment; none may reach the DAGs' operators.
"""


def use_own_home(dags: Path) -> None:
    """Give this process an Airflow home that ends with it; Airflow reads it when it is imported."""
    home = Path(tempfile.mkdtemp(prefix="airflow-tests-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ.update(
        AIRFLOW_HOME=str(home),
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__UNIT_TEST_MODE="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{home}/airflow.db",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
        **{f"AIRFLOW__{section}__{option}".upper(): "True" for section, option in PROVIDER_SWITCHES},
    )


def connection_to(endpoint: str) -> str:
    """The connection as the variable's JSON."""
    extra = {"region_name": REGION, "endpoint_url": endpoint}
    return json.dumps({"conn_type": "aws", "login": "test", "password": "test", "extra": extra})
