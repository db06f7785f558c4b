"""The rules of the node that need no process: arguments, settings, keys, failures in logs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from local_emr.node import logs, spark_args, spark_conf
from local_emr.node.s3 import S3Error, split_uri
from local_emr.settings import Settings


def test_arguments_of_spark_submit_are_read_in_both_forms() -> None:
    submit = spark_args.parse(
        [
            "--master=yarn",
            "--conf",
            "a.b=c=d",
            "--verbose",
            "--name",
            "my job",
            "--jars",
            "s3://b/1.jar,s3://b/2.jar",
            "s3://b/job.py",
            "--conf",
            "mine",
        ]
    )
    assert submit.conf == {"spark.master": "yarn", "a.b": "c=d"}
    assert submit.options == ["--name", "my job"]
    assert submit.files == {"--jars": ["s3://b/1.jar", "s3://b/2.jar"]}
    assert (submit.application, submit.arguments) == ("s3://b/job.py", ["--conf", "mine"])


@pytest.mark.parametrize(
    "args", [[], ["--conf"], ["--conf", "novalue", "x.py"], ["--name", "x"], ["--what", "x"]]
)
def test_arguments_that_make_no_sense_are_named(args: list[str]) -> None:
    with pytest.raises(spark_args.BadArgumentsError, match="spark-submit: "):
        spark_args.parse(args)


def settings(master: str) -> Settings:
    return Settings("http://x", "http://x", Path("/"), master, "python3", Path("/java"))


def test_executors_of_a_local_cluster_get_the_memory_of_its_workers() -> None:
    conf = {"spark.executor.memory": "20g", "spark.sql.shuffle.partitions": "8"}
    assert spark_conf.adapt(conf, settings("local-cluster[2,1,1024]")).conf == {
        "spark.executor.memory": "1024m",
        "spark.sql.shuffle.partitions": "8",
    }
    assert "spark.executor.memory" not in spark_conf.adapt(conf, settings("local[2]")).conf


def test_drivers_get_the_servers_java_options_unless_the_step_names_its_own() -> None:
    server = replace(settings("local[2]"), java_options="-XX:TieredStopAtLevel=1")
    name = "spark.driver.defaultJavaOptions"
    assert spark_conf.adapt({}, server).conf == {name: "-XX:TieredStopAtLevel=1"}
    assert spark_conf.adapt({name: "-Xss4m"}, server).conf == {name: "-Xss4m"}
    assert spark_conf.adapt({}, settings("local[2]")).conf == {}


def test_an_event_log_on_this_machine_is_kept() -> None:
    conf = {"spark.eventLog.enabled": "true", "spark.eventLog.dir": "file:///tmp/events"}
    assert spark_conf.adapt(conf, settings("local[2]")).conf == conf
    assert spark_conf.adapt({"spark.eventLog.enabled": "true"}, settings("local[2]")).conf == {}


def test_keys_may_hold_characters_that_mean_something_in_other_urls() -> None:
    assert split_uri("s3://bucket/a b/#1?x=%20") == ("bucket", "a b/#1?x=%20")
    with pytest.raises(S3Error, match="not an s3:// URI"):
        split_uri("https://bucket/key")


@pytest.mark.parametrize(
    ("stdout", "stderr", "message"),
    [
        ("ValueError: first\nTraceback\npkg.mod.BadImageError: last", "", "pkg.mod.BadImageError: last"),
        ("", 'Exception in thread "main" java.io.IOException: no space', "java.io.IOException: no space"),
        ("", "org.apache.spark.SparkUserAppException: User application exited with 1", "exit code 1"),
        ("no error here", "cp: cannot stat 'x'", "cp: cannot stat 'x' (exit code 1)"),
        ("Errors: 3", "", "exit code 1"),
    ],
)
def test_the_message_of_a_failure_is_its_last_exception(
    tmp_path: Path, stdout: str, stderr: str, message: str
) -> None:
    files = logs.LogFiles(tmp_path, None, None, ("stdout", "stderr"))
    files.path("stdout").write_text(stdout)
    files.path("stderr").write_text(stderr)
    assert logs.failure(files, 1)["Message"] == message
