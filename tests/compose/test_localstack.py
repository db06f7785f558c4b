"""`COMPOSE_PROFILES=localstack`: the same run, with LocalStack's S3, IAM and STS beside our EMR."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack import BUCKET, ComposeStack, DagRun, running, summary_in_s3

# A user that the image does not know, as the owner of mounted folders will be.
OWNER = "12345"
# Objects of the bucket at LocalStack, and the buckets of the local EMR's own S3, which nobody should use.
WHERE = f"""
import boto3
keys = [o["Key"] for page in boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket={BUCKET!r})
        for o in page.get("Contents", [])]
own = boto3.client("s3", endpoint_url="http://emr:4566").list_buckets()["Buckets"]
print(sum("/logs/" in key and key.endswith("stdout.gz") for key in keys), len(own))
"""


@pytest.fixture(scope="module")
def localstack(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeStack]:
    name = f"fruit-features-test-localstack-{os.getpid()}"
    settings = {"COMPOSE_PROFILES": "localstack", "FRUITS_UID": OWNER}
    yield from running(ComposeStack(repo, tmp_path_factory.mktemp("localstack"), name, settings))


@pytest.fixture(scope="module")
def run(localstack: ComposeStack) -> DagRun:
    """A small run, ended."""
    run = localstack.api.trigger(per_label=10, alpha=0.35, components=20)
    run.wait()
    return run


def test_a_run_goes_green(localstack: ComposeStack, run: DagRun) -> None:
    states = run.tasks()
    failed = [task for task, state in states.items() if state == "failed"]
    assert set(states.values()) == {"success"}, "\n".join(run.log(task)[-2000:] for task in failed) or states
    summary = summary_in_s3(localstack, run)
    assert (summary["images"], summary["features"], summary["components"]) == (120, 120, 20)


def test_steps_write_and_log_to_localstacks_s3(localstack: ComposeStack, run: DagRun) -> None:
    logs, own_buckets = map(int, localstack.python("scheduler", WHERE).split())
    assert (logs >= 2, own_buckets) == (True, 0)


def test_airflow_runs_as_the_owner_of_the_mounted_folders(localstack: ComposeStack) -> None:
    code = "import os; print(os.getuid(), os.access(os.path.expanduser('~/.aws'), os.R_OK | os.X_OK))"
    assert localstack.python("scheduler", code).split() == [OWNER, "True"]


def test_only_loopback_reaches_localstack_and_emr(localstack: ComposeStack) -> None:
    found = localstack.containers()
    assert "local-aws" not in found
    for service, variable in (("localstack", "LOCAL_AWS_PORT"), ("local-emr", "LOCAL_EMR_PORT")):
        bindings = found[service]["NetworkSettings"]["Ports"]["4566/tcp"]
        assert bindings == [{"HostIp": "127.0.0.1", "HostPort": localstack.env[variable]}]
        assert found[service]["HostConfig"]["Memory"] > 0
