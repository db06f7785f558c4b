"""A server as a user starts it, and a small language for clusters and scripts."""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

REGION = "eu-west-3"
SCRIPT_RUNNER = f"s3://{REGION}.elasticmapreduce/libs/script-runner/script-runner.jar"


def client(endpoint: str, service: str, region: str = REGION) -> Any:
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    )


class ServerProcess:
    """``python -m local_emr`` on a free port."""

    def __init__(self, *options: str) -> None:
        # Set on purpose: none of it may reach a step.
        env = {**os.environ, "SECRET_OF_THE_SERVER": "leak", "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "local_emr",
                "--port",
                "0",
                "--log-seconds",
                "0.5",
                *options,
            ],
            stdout=subprocess.PIPE,
            env=env,
            text=True,
        )
        assert self.process.stdout
        self.ready_line = self.process.stdout.readline()
        match = re.fullmatch(r"local AWS ready at (http://127\.0\.0\.1:\d+)\n", self.ready_line)
        assert match, self.ready_line
        self.endpoint = match[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(300)  # its last snapshot waits for the disk
        assert self.process.stdout
        self.process.stdout.close()
        return code


@dataclass
class Aws:
    """Clients of one server, and shorthands."""

    endpoint: str
    bucket: str = "test-bucket"

    def __post_init__(self) -> None:
        self.s3 = client(self.endpoint, "s3")
        self.emr = client(self.endpoint, "emr")

    def make_bucket(self) -> None:
        self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})

    def put(self, key: str, body: str | bytes) -> str:
        data = body.encode() if isinstance(body, str) else body
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=data)
        return f"s3://{self.bucket}/{key}"

    def get(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def log(self, key: str) -> str:
        return gzip.decompress(self.get(f"logs/{key}.gz")).decode()

    def step_log(self, cluster: str, step: str, name: str) -> str:
        return self.log(f"{cluster}/steps/{step}/{name}")

    def script(self, name: str, body: str, *args: str, on_failure: str = "CONTINUE") -> dict[str, Any]:
        """A step that runs ``body`` with bash."""
        uri = self.put(f"scripts/{name}.sh", body)
        return step(SCRIPT_RUNNER, uri, *args, name=name, on_failure=on_failure)

    def run(self, *steps: dict[str, Any], keep: bool = True, **more: Any) -> str:
        instances = {
            "InstanceGroups": [
                {"InstanceRole": "MASTER", "InstanceType": "m5.xlarge", "InstanceCount": 1},
                {"InstanceRole": "CORE", "InstanceType": "m5.xlarge", "InstanceCount": 2},
            ],
            "KeepJobFlowAliveWhenNoSteps": keep,
            **more.pop("Instances", {}),
        }
        if "InstanceFleets" in instances:
            del instances["InstanceGroups"]
        request = {
            "Name": "test",
            "LogUri": f"s3://{self.bucket}/logs/",
            "ReleaseLabel": "emr-7.13.0",
            "JobFlowRole": "EMR_EC2_DefaultRole",
            "ServiceRole": "EMR_DefaultRole_V2",
            **more,
        }
        return self.emr.run_job_flow(Instances=instances, Steps=list(steps), **request)["JobFlowId"]

    def add(self, cluster: str, *steps: dict[str, Any]) -> list[str]:
        return self.emr.add_job_flow_steps(JobFlowId=cluster, Steps=list(steps))["StepIds"]

    def cluster(self, cluster: str) -> dict[str, Any]:
        return self.emr.describe_cluster(ClusterId=cluster)["Cluster"]

    def state(self, cluster: str) -> str:
        return self.cluster(cluster)["Status"]["State"]

    def step(self, cluster: str, step_id: str) -> dict[str, Any]:
        return self.emr.describe_step(ClusterId=cluster, StepId=step_id)["Step"]

    def step_state(self, cluster: str, step_id: str) -> str:
        return self.step(cluster, step_id)["Status"]["State"]

    def steps(self, cluster: str) -> dict[str, dict[str, Any]]:
        """By name."""
        return {s["Name"]: s for s in self.emr.list_steps(ClusterId=cluster)["Steps"]}

    def wait_cluster(self, cluster: str, *states: str, seconds: float = 300) -> dict[str, Any]:
        until(lambda: self.state(cluster) in states, seconds, lambda: str(self.cluster(cluster)["Status"]))
        return self.cluster(cluster)["Status"]

    def wait_step(self, cluster: str, step_id: str, *states: str, seconds: float = 300) -> dict[str, Any]:
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")
        until(
            lambda: self.step_state(cluster, step_id) in wanted,
            seconds,
            lambda: str(self.step(cluster, step_id)),
        )
        return self.step(cluster, step_id)["Status"]


def step(jar: str, *args: str, name: str = "step", on_failure: str = "CONTINUE") -> dict[str, Any]:
    return {"Name": name, "ActionOnFailure": on_failure, "HadoopJarStep": {"Jar": jar, "Args": list(args)}}


def until(done: Callable[[], bool], seconds: float = 300, say: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s: {say()}"
        time.sleep(0.05)


def processes_with(mark: str) -> list[str]:
    """Command lines of the processes that have ``mark`` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (path / "environ").read_bytes().split(b"\0"):
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
