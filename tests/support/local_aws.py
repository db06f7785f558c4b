"""The local AWS, and what a test asks of it.

``AwsProcess`` starts one with the command line of a user; ``LocalAws`` is a client of any.
"""

from __future__ import annotations

import gzip
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from support.waiting import eventually

REGION = "eu-west-3"
BUCKET = "test-bucket"
SCRIPT_RUNNER = f"s3://{REGION}.elasticmapreduce/libs/script-runner/script-runner.jar"
ALIVE = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")


# Forks servers from a process that has imported moto: one starts in 0.2 s instead of some seconds.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["local_emr.cli", "local_emr.node.runner", "local_emr.server.app"])


class AwsProcess:
    """A process with the command line of ``python -m local_emr`` on a free port, from its construction on."""

    def __init__(self, *options: str, log: Path | None = None) -> None:
        """``log`` takes what it writes to stderr."""
        receiver, sender = _FORKS.Pipe(duplex=False)
        # Set on purpose: none of it may reach a step.
        environment = {**os.environ, "SECRET_OF_THE_SERVER": "leak", "PYTHONPATH": ""}
        arguments = ["--port", "0", "--log-seconds", "0.5", *options]
        self._process = _FORKS.Process(target=_serve, args=(arguments, environment, sender, log), daemon=True)
        self._process.start()
        sender.close()
        with os.fdopen(os.dup(receiver.fileno())) as stdout:
            ready_line = stdout.readline()
        receiver.close()
        match = re.fullmatch(r"local AWS ready at (http://127\.0\.0\.1:\d+)\n", ready_line)
        assert match, f"the local AWS did not start: {ready_line!r}{log.read_text() if log else ''}"
        self.endpoint = match[1]

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Its exit code after the signal; SIGKILL saves nothing and ends no cluster."""
        os.kill(self.pid, number)
        self._process.join(300)  # its last snapshot waits for the disk
        assert self._process.exitcode is not None, "the local AWS does not stop"
        return self._process.exitcode


def _serve(arguments: list[str], environment: dict[str, str], stdout: Any, log: Path | None) -> None:
    """The body of an AwsProcess."""
    from local_emr import cli

    os.environ.clear()
    os.environ.update(environment)
    os.dup2(stdout.fileno(), sys.stdout.fileno())
    if log:
        with log.open("ab") as sink:
            os.dup2(sink.fileno(), sys.stderr.fileno())
    sys.exit(cli.main(arguments))


def client(endpoint: str, service: str, region: str = REGION) -> Any:
    """A boto3 client that tries once."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


@dataclass
class LocalAws:
    """Clients of a local AWS, and shorthands for one bucket and for EMR."""

    endpoint: str
    bucket: str = BUCKET

    def __post_init__(self) -> None:
        self.s3, self.emr = self.client("s3"), self.client("emr")

    def client(self, service: str, region: str = REGION) -> Any:
        return client(self.endpoint, service, region)

    # S3.

    def make_bucket(self) -> None:
        self.s3.create_bucket(Bucket=self.bucket, CreateBucketConfiguration={"LocationConstraint": REGION})

    def set_up_account(self, bucket: str = "", region: str = REGION) -> None:
        """A bucket and the roles as the preflight requires them."""
        from fruit_pipeline.aws.session import Aws
        from fruit_pipeline.demo.local_account import set_up_account

        session = boto3.Session("test", "test", region_name=region)
        set_up_account(Aws(session, region, self.endpoint), bucket or self.bucket)

    def put(self, key: str, body: str | bytes = b"x") -> str:
        """Write an object; returns its URI."""
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        return f"s3://{self.bucket}/{key}"

    def get(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str) -> list[str]:
        """Keys below a prefix of the bucket, without it."""
        listing = self.s3.list_objects_v2(Bucket=self.bucket, Prefix=f"{prefix}/")
        return [entry["Key"][len(prefix) + 1 :] for entry in listing.get("Contents", [])]

    def log(self, key: str) -> str:
        return gzip.decompress(self.get(f"logs/{key}.gz")).decode()

    def step_log(self, cluster: str, step: str, name: str) -> str:
        return self.log(f"{cluster}/steps/{step}/{name}")

    # Clusters.

    def script(self, name: str, body: str, *args: str, on_failure: str = "CONTINUE") -> dict[str, Any]:
        """A step that runs ``body`` with bash."""
        uri = self.put(f"scripts/{name}.sh", body)
        return step(SCRIPT_RUNNER, uri, *args, name=name, on_failure=on_failure)

    def run(
        self,
        *steps: dict[str, Any],
        name: str = "test",
        tags: Mapping[str, str] | None = None,
        keep: bool = True,
        **more: Any,
    ) -> str:
        """Id of a new cluster; ``keep``: it waits for more steps, ``more``: of the request."""
        groups = [
            {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": count}
            for role, count in (("MASTER", 1), ("CORE", 2))
        ]
        instances = {
            "InstanceGroups": groups,
            "KeepJobFlowAliveWhenNoSteps": keep,
            **more.pop("Instances", {}),
        }
        if "InstanceFleets" in instances:
            del instances["InstanceGroups"]
        request = {
            "Name": name,
            "LogUri": f"s3://{self.bucket}/logs/",
            "ReleaseLabel": "emr-7.14.0",
            "JobFlowRole": "EMR_EC2_DefaultRole",
            "ServiceRole": "EMR_DefaultRole_V2",
            "Tags": [{"Key": key, "Value": value} for key, value in (tags or {}).items()],
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
        return {entry["Name"]: entry for entry in self.emr.list_steps(ClusterId=cluster)["Steps"]}

    def wait_cluster(self, cluster: str, *states: str, seconds: float = 300) -> dict[str, Any]:
        """Its Status once it is in one of the states."""
        eventually(lambda: self.state(cluster) in states, seconds, lambda: self.cluster(cluster)["Status"])
        return self.cluster(cluster)["Status"]

    def wait_step(self, cluster: str, step_id: str, *states: str, seconds: float = 300) -> dict[str, Any]:
        """Its Status once it is in one of the states, without any once it has ended."""
        wanted = states or ("COMPLETED", "FAILED", "CANCELLED", "INTERRUPTED")
        eventually(
            lambda: self.step_state(cluster, step_id) in wanted,
            seconds,
            lambda: self.step(cluster, step_id),
        )
        return self.step(cluster, step_id)["Status"]

    def alive(self) -> list[str]:
        pages = self.emr.get_paginator("list_clusters").paginate(ClusterStates=list(ALIVE))
        return [cluster["Id"] for page in pages for cluster in page["Clusters"]]

    def terminate_all(self) -> None:
        """Terminate all clusters, the protected ones too; does not wait for their end."""
        for cluster in self.alive():
            with suppress(self.emr.exceptions.ClientError):  # it may end by itself meanwhile
                self.emr.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=False)
                self.emr.terminate_job_flows(JobFlowIds=[cluster])


def step(jar: str, *args: str, name: str = "step", on_failure: str = "CONTINUE") -> dict[str, Any]:
    return {"Name": name, "ActionOnFailure": on_failure, "HadoopJarStep": {"Jar": jar, "Args": list(args)}}
