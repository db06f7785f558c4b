"""What several tests need: the local AWS as a process, Spark's place taken in this process, commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.validate import ParamValidator

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.demo.local_account import set_up_account
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction, reduction
from image_features.storage import Storage

REGION = "eu-west-3"
BUCKET = "dags-tests"
CONNECTION = "aws_tests"
SCRIPT_RUNNER = f"s3://{REGION}.elasticmapreduce/libs/script-runner/script-runner.jar"


class LocalAws:
    """``python -m local_emr`` on a free port, and shorthands for its S3 and EMR."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local_emr", "--port", "0"], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        ready = self.process.stdout.readline()
        match = re.fullmatch(r"local AWS ready at (http://\S+)\n", ready)
        assert match, f"the local AWS did not start: {ready!r}"
        self.endpoint = match[1]
        self.s3, self.emr = self.client("s3"), self.client("emr")

    def client(self, service: str, region: str = REGION) -> Any:
        session = boto3.Session("test", "test", region_name=region)
        return session.client(
            service, endpoint_url=self.endpoint, config=Config(retries={"total_max_attempts": 1})
        )

    def stop(self) -> int:
        self.process.terminate()
        code = self.process.wait(300)
        assert self.process.stdout
        self.process.stdout.close()
        return code

    def make_bucket(self, name: str = BUCKET, region: str = REGION) -> None:
        """A bucket and the roles as the preflight wants them."""
        session = boto3.Session("test", "test", region_name=region)
        set_up_account(Aws(session, region, self.endpoint), name)

    def put(self, key: str, body: str | bytes = b"x") -> str:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        return f"s3://{BUCKET}/{key}"

    def keys(self, prefix: str) -> list[str]:
        """Keys below a prefix of the bucket, without it."""
        listing = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")
        return [entry["Key"][len(prefix) + 1 :] for entry in listing.get("Contents", [])]

    def script_step(self, name: str, body: str) -> dict[str, Any]:
        """A step that runs ``body`` with bash."""
        step = {"Jar": SCRIPT_RUNNER, "Args": [self.put(f"scripts/{name}.sh", body)]}
        return {"Name": name, "ActionOnFailure": "CONTINUE", "HadoopJarStep": step}

    def start_cluster(self, name: str, tags: dict[str, str] | None = None, **more: Any) -> str:
        request = {"Name": name, "ReleaseLabel": "emr-7.14.0", "LogUri": f"s3://{BUCKET}/logs/", **more}
        request["Tags"] = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
        groups = [
            {"InstanceRole": role, "InstanceType": "m5.xlarge", "InstanceCount": 1}
            for role in ("MASTER", "CORE")
        ]
        instances = {"InstanceGroups": groups, "KeepJobFlowAliveWhenNoSteps": True}
        request["Instances"] = {**instances, **more.get("Instances", {})}
        roles = {"ServiceRole": "EMR_DefaultRole_V2", "JobFlowRole": "EMR_EC2_DefaultRole"}
        return self.emr.run_job_flow(**request, **roles)["JobFlowId"]

    def state(self, cluster: str) -> str:
        return self.emr.describe_cluster(ClusterId=cluster)["Cluster"]["Status"]["State"]

    def step_state(self, cluster: str, step: str) -> str:
        return self.emr.describe_step(ClusterId=cluster, StepId=step)["Step"]["Status"]["State"]

    def alive(self) -> list[str]:
        states = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING"]
        pages = self.emr.get_paginator("list_clusters").paginate(ClusterStates=states)
        return [cluster["Id"] for page in pages for cluster in page["Clusters"]]

    def terminate_all(self) -> None:
        for cluster in self.alive():
            # One that was told to end is still listed as alive for a moment, and takes no changes.
            with suppress(self.emr.exceptions.ClientError):
                self.emr.set_termination_protection(JobFlowIds=[cluster], TerminationProtected=False)
            self.emr.terminate_job_flows(JobFlowIds=[cluster])


class Mailbox:
    """A topic of SNS and a queue that hears it, as a mailbox would."""

    def __init__(self, aws: LocalAws, name: str) -> None:
        self._sqs = aws.client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        sns = aws.client("sns")
        self.topic = sns.create_topic(Name=name)["TopicArn"]
        endpoint = attributes["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=endpoint)

    def read(self) -> list[dict[str, str]]:
        """Subject and Message of what has come since the last call, in order."""
        found = []
        while batch := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for entry in batch:
                found.append(json.loads(entry["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=entry["ReceiptHandle"])
        return sorted(found, key=lambda message: message["Timestamp"])


def until(done: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def refused_by_emr(operation: str, request: dict[str, Any]) -> str:
    """What botocore's own model of EMR has against a request; empty when it is a good one."""
    service = botocore.session.get_session().get_service_model("emr")
    report = ParamValidator().validate(request, service.operation_model(operation).input_shape)
    return report.generate_report()


class InProcessSpark:
    """The few calls of a SparkContext that the job code makes, in this process."""

    defaultParallelism = 2
    version = "none"

    @property
    def _jvm(self) -> Any:
        return SimpleNamespace(java=SimpleNamespace(lang=SimpleNamespace(System=self)))

    def getProperty(self, _: str) -> str:
        return "none"

    @property
    def sparkContext(self) -> InProcessSpark:
        return self

    def broadcast(self, value: Any) -> Any:
        return SimpleNamespace(value=value)

    def parallelize(self, data: Iterable[Any], partitions: int) -> _Partitions:
        rows = list(data)
        return _Partitions([rows[at::partitions] for at in range(partitions)])


class _Partitions:
    def __init__(self, parts: list[Any]) -> None:
        self._parts = parts

    def mapPartitions(self, work: Callable[[Iterator[Any]], Iterable[Any]]) -> _Partitions:
        return _Partitions([list(work(iter(part))) for part in self._parts])

    def map(self, work: Callable[[Any], Any]) -> _Partitions:
        return self.mapPartitions(lambda part: map(work, part))

    def collect(self) -> list[Any]:
        return [row for part in self._parts for row in part]


def finished_run(folder: Path, images: Path, model: Path, components: int = 8, cores: int = 1) -> Path:
    """Sample, features and embeddings of ``images`` and two files that do not decode; cut for ``cores``."""
    source = Path(shutil.copytree(images, folder / "source"))
    (source / "Apricot" / "empty.jpg").touch()
    (source / "Plum" / "text.jpg").write_text("no image")
    root = folder / "run"
    request = SampleRequest(str(source), cores=cores)
    write_sample(request, Source(source), Storage(root / "sample", create=True))
    spark, features = InProcessSpark(), str(root / "features")
    extraction.run(spark, str(root / "sample"), str(model), features)
    reduction.run(spark, features, str(root / "pca"), components, model=str(model))
    return root


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m <words>`` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def python(code: str, **environment: str) -> str:
    """Standard output of ``code`` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
