"""Steps that really run spark-submit."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyspark
import pytest

from support.local_aws import AwsProcess, LocalAws, step
from support.processes import processes_with
from support.waiting import eventually

pytestmark = pytest.mark.e2e

SECONDS = 600

PROBE = """
import json, os, sys
from pyspark.sql import SparkSession
from pyspark import SparkFiles
spark = SparkSession.builder.getOrCreate()

def on_worker(_):
    import os, sys
    return sys.prefix, os.environ.get("FROM_EXPORT"), os.environ.get("FROM_EXECUTOR_ENV")

found = {
    "driver": sys.prefix,
    "worker": spark.sparkContext.parallelize([0], 1).map(on_worker).first(),
    "partitions": spark.conf.get("spark.sql.shuffle.partitions"),
    "conf": dict(spark.sparkContext.getConf().getAll()),
    "env": dict(os.environ),
    "cwd": sorted(os.listdir(".")),
    "args": sys.argv[1:],
}
import boto3
body = json.dumps(found).encode()
boto3.client("s3").put_object(Bucket="test-bucket", Key=sys.argv[1], Body=body)
"""


def spark(script: str, *args: str, options: tuple[str, ...] = (), name: str = "spark") -> dict[str, Any]:
    return step("command-runner.jar", "spark-submit", *options, script, *args, name=name)


def probe(aws: LocalAws, key: str, options: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """What a job sees of its surroundings, and its controller log."""
    uri = aws.put("jobs/probe.py", PROBE)
    cluster = aws.run(spark(uri, key, "an arg", options=options), **more)
    step_id = aws.steps(cluster)["spark"]["Id"]
    status = aws.wait_step(cluster, step_id, seconds=SECONDS)
    assert status["State"] == "COMPLETED", (status, aws.step_log(cluster, step_id, "stderr")[-3000:])
    return {**json.loads(aws.get(key)), "controller": aws.step_log(cluster, step_id, "controller")}


def test_a_plain_job_gets_the_servers_python_a_clean_environment_and_its_arguments(aws: LocalAws) -> None:
    found = probe(aws, "plain.json", options=("--deploy-mode", "cluster", "--master", "yarn"))
    assert found["driver"] == found["worker"][0] == sys.prefix
    assert found["args"] == ["plain.json", "an arg"]
    assert found["conf"]["spark.master"].startswith("local[")
    assert "SECRET_OF_THE_SERVER" not in found["env"]
    assert found["env"]["AWS_REGION"] == "eu-west-3"
    assert found["conf"]["spark.driver.host"] == "127.0.0.1"
    assert found["conf"].get("spark.ui.enabled") == "false"


def test_the_python_that_a_bootstrap_action_made_runs_driver_and_workers(aws: LocalAws) -> None:
    script = """set -e
    site=$(python3 -c 'import boto3, pathlib; print(pathlib.Path(boto3.__file__).parent.parent)')
    sudo mkdir -p "${EMR_NODE_ROOT:-}/opt/job"
    sudo python3.11 -m venv --without-pip "${EMR_NODE_ROOT:-}/opt/job/venv"
    # boto3 only, not Spark: that must come from spark-submit
    target=$(echo "${EMR_NODE_ROOT:-}"/opt/job/venv/lib/python3*/site-packages)
    for name in boto3 botocore jmespath s3transfer dateutil urllib3 six.py; do
      ln -s "$site/$name" "$target/$name"
    done
    """
    bootstrap = {"Path": aws.put("bootstrap/venv.sh", script), "Args": []}
    found = probe(
        aws,
        "venv.json",
        BootstrapActions=[{"Name": "venv", "ScriptBootstrapAction": bootstrap}],
        Configurations=[
            {
                "Classification": "spark-env",
                "Configurations": [
                    {
                        "Classification": "export",
                        "Properties": {"PYSPARK_PYTHON": "/opt/job/venv/bin/python", "FROM_EXPORT": "yes"},
                    }
                ],
            }
        ],
    )
    assert found["driver"].endswith("/node/opt/job/venv")
    assert found["worker"][0] == found["driver"]
    assert found["worker"][1] == "yes"


def test_spark_defaults_apply_the_arguments_win_and_yarns_settings_are_left_out(aws: LocalAws) -> None:
    found = probe(
        aws,
        "conf.json",
        options=(
            "--conf",
            "spark.executorEnv.FROM_EXECUTOR_ENV=worker",
            "--conf=spark.sql.session.timeZone=UTC",
            "--num-executors",
            "7",
            "--queue",
            "fast",
            "--driver-memory",
            "9000g",
        ),
        Configurations=[
            {
                "Classification": "spark-defaults",
                "Properties": {
                    "spark.sql.shuffle.partitions": "3",
                    "spark.sql.session.timeZone": "Europe/Paris",
                    "spark.yarn.appMasterEnv.FROM_APP_MASTER": "driver",
                    "spark.dynamicAllocation.enabled": "true",
                    "spark.eventLog.enabled": "true",
                    "spark.eventLog.dir": "hdfs:///var/log/spark/apps",
                    "spark.executor.memory": "100g",
                },
            }
        ],
    )
    assert found["partitions"] == "3"
    assert found["conf"]["spark.sql.session.timeZone"] == "UTC"
    assert found["env"]["FROM_APP_MASTER"] == "driver"
    assert found["worker"][2] == "worker"
    for name in (
        "spark.dynamicAllocation.enabled",
        "spark.executor.instances",
        "spark.yarn.queue",
        "spark.eventLog.dir",
        "spark.executor.memory",
    ):
        assert name not in found["conf"]
        assert f"left out {name}=" in found["controller"]
    assert "capped spark.driver.memory=9000g" in found["controller"]


def test_files_archives_and_modules_from_s3_lie_where_yarn_puts_them(aws: LocalAws) -> None:
    module = io.BytesIO()
    with zipfile.ZipFile(module, "w") as archive:
        archive.writestr("helper_module.py", "VALUE = 'from the zip'\n")
    archive_bytes = io.BytesIO()
    with tarfile.open(fileobj=archive_bytes, mode="w:gz") as tar:
        info = tarfile.TarInfo("inner/data.txt")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"tar!"))
    job = """
import sys, boto3
from pyspark import SparkFiles
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
import helper_module
def f(_):
    import helper_module
    return helper_module.VALUE, open("renamed.txt").read(), open("stuff/inner/data.txt").read()
rows = spark.sparkContext.parallelize([0], 1).map(f).collect()
print("FOUND", rows, open(SparkFiles.get("renamed.txt")).read())
"""
    options = (
        "--py-files",
        aws.put("jobs/helper.zip", module.getvalue()),
        "--archives",
        aws.put("jobs/stuff.tar.gz", archive_bytes.getvalue()) + "#stuff",
        "--files",
        aws.put("jobs/with space é.txt", "file!") + "#renamed.txt",
    )
    cluster = aws.run(spark(aws.put("jobs/files.py", job), options=options))
    step_id = aws.steps(cluster)["spark"]["Id"]
    status = aws.wait_step(cluster, step_id, seconds=SECONDS)
    assert status["State"] == "COMPLETED", (status, aws.step_log(cluster, step_id, "stdout"))
    assert "FOUND [('from the zip', 'file!', 'tar!')] file!" in aws.step_log(cluster, step_id, "stdout")


def test_a_failing_job_is_explained_by_its_own_exception(aws: LocalAws) -> None:
    on_driver = aws.put("jobs/driver.py", "import pyspark\nraise ValueError('no such shard: 17')\n")
    on_worker = aws.put(
        "jobs/worker.py",
        "from pyspark.sql import SparkSession\n"
        "s = SparkSession.builder.getOrCreate()\n"
        "def f(x):\n    raise KeyError('bad image')\n"
        "s.sparkContext.parallelize([1], 1).map(f).collect()\n",
    )
    cluster = aws.run(spark(on_driver, name="driver"), spark(on_worker, name="worker"))
    steps = aws.steps(cluster)
    status = aws.wait_step(cluster, steps["driver"]["Id"], "FAILED", seconds=SECONDS)
    assert status["FailureDetails"]["Message"] == "ValueError: no such shard: 17"
    log_file = status["FailureDetails"]["LogFile"]
    assert log_file == f"s3://test-bucket/logs/{cluster}/steps/{steps['driver']['Id']}/stdout.gz"
    assert "no such shard: 17" in aws.step_log(cluster, steps["driver"]["Id"], "stdout")
    status = aws.wait_step(cluster, steps["worker"]["Id"], "FAILED", seconds=SECONDS)
    assert status["FailureDetails"]["Message"] == "KeyError: 'bad image'"


@pytest.mark.parametrize("how", ["SEND_INTERRUPT", "TERMINATE_PROCESS", "cluster"])
def test_a_stopped_job_leaves_no_process_not_even_pythons_workers(aws: LocalAws, how: str) -> None:
    job = """
import time
from pyspark.sql import SparkSession
s = SparkSession.builder.getOrCreate()
def f(x):
    print("WORKING", flush=True)
    while True:
        pass
s.sparkContext.parallelize([1, 2], 2).foreach(f)
"""
    cluster = aws.run(spark(aws.put("jobs/loop.py", job)))
    step_id = aws.steps(cluster)["spark"]["Id"]
    mark = f"EMR_STEP_ID={step_id}"
    eventually(lambda: any("pyspark.daemon" in line for line in processes_with(mark)), SECONDS)
    if how == "cluster":
        aws.emr.terminate_job_flows(JobFlowIds=[cluster])
        aws.wait_cluster(cluster, "TERMINATED")
    else:
        aws.emr.cancel_steps(ClusterId=cluster, StepIds=[step_id], StepCancellationOption=how)
    assert aws.wait_step(cluster, step_id, seconds=SECONDS)["State"] == "CANCELLED"
    assert processes_with(mark) == []


def test_executors_in_processes_of_their_own_find_files_and_archives_too(
    start: Callable[..., AwsProcess],
) -> None:
    aws = LocalAws(start("--master", "local-cluster[2,1,1024]").endpoint)
    aws.make_bucket()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inner.txt", "zip!")
    job = """
import os
from pyspark.sql import SparkSession
spark = SparkSession.builder.getOrCreate()
def f(_):
    return os.getppid(), open("stuff/inner.txt").read(), open("f.txt").read()
rows = spark.sparkContext.parallelize(range(8), 8).map(f).collect()
print("FOUND", {row[1:] for row in rows}, open("stuff/inner.txt").read())
"""
    options = ("--executor-memory", "20g", "--executor-cores", "4", "--files", aws.put("f.txt", "file!"))
    options += ("--conf", f"spark.archives={aws.put('a.zip', packed.getvalue())}#stuff")
    cluster = aws.run(spark(aws.put("jobs/executors.py", job), options=options))
    step_id = aws.steps(cluster)["spark"]["Id"]
    status = aws.wait_step(cluster, step_id, seconds=SECONDS)
    assert status["State"] == "COMPLETED", aws.step_log(cluster, step_id, "stderr")[-3000:]
    assert "FOUND {('zip!', 'file!')} zip!" in aws.step_log(cluster, step_id, "stdout")
    assert not (Path(pyspark.__file__).parent / "work").exists()
