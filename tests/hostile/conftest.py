"""The local AWS of the DAGs' tests."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from pipeline_harness import REGION, LocalAws

from fruit_pipeline.aws.session import Aws


@pytest.fixture(scope="session")
def local_aws() -> Iterator[LocalAws]:
    """The local AWS as a process, with a bucket."""
    aws = LocalAws()
    aws.make_bucket()
    yield aws
    assert aws.stop() == 0


@pytest.fixture
def aws(local_aws: LocalAws) -> Aws:
    return Aws(boto3.Session("test", "test", region_name=REGION), REGION, local_aws.endpoint)
