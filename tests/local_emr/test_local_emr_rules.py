"""Rules that need neither a server nor a process: idle time, arguments, settings, log reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from local_emr.emr.cluster import Cluster, Step
from local_emr.emr.lifecycle import ClusterLifecycle
from local_emr.emr.requests import cluster_from
from local_emr.node import logs, spark_args, spark_conf
from local_emr.node.s3 import S3Error, split_uri
from local_emr.settings import Settings
from local_emr.state.clusters import ClusterStore
from support.waiting import eventually


class FakeWorker:
    """Steps end at once; nothing runs."""

    def prepare(self) -> None: ...
    def bootstrap(self, number: int, path: str, args: Any) -> str | None: ...
    def run_step(self, step: Step) -> dict[str, str] | None: ...
    def cancel(self, step_id: str, force: bool) -> None: ...
    def close(self) -> None: ...
    def remove_node(self) -> None: ...


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def alive() -> Callable[..., tuple[ClusterLifecycle, Clock]]:
    def begin(**more: Any) -> tuple[ClusterLifecycle, Clock]:
        instances = {"MasterInstanceType": "m5.xlarge", "KeepJobFlowAliveWhenNoSteps": True}
        request = {"Name": "n", "Instances": {**instances, **more.pop("Instances", {})}, **more}
        clock = Clock()
        life = ClusterLifecycle(cluster_from(request, "eu-west-3", "1"), FakeWorker(), clock=clock)
        life.begin()
        eventually(lambda: life.cluster.state == "WAITING")
        return life, clock

    return begin


def advance(life: ClusterLifecycle, clock: Clock, seconds: float) -> None:
    clock.now += seconds
    with life.changed:
        life.changed.notify_all()


def test_an_idle_cluster_ends_after_its_timeout_and_not_before(alive: Any) -> None:
    life, clock = alive(AutoTerminationPolicy={"IdleTimeout": 300})
    advance(life, clock, 299)
    life.join(0.2)
    assert life.cluster.state == "WAITING"
    advance(life, clock, 1)
    life.join(5)
    assert (life.cluster.state, life.cluster.code) == ("TERMINATED", "ALL_STEPS_COMPLETED")
    assert "auto-termination" in (life.cluster.message or "")


def test_a_step_starts_the_idle_time_anew(alive: Any) -> None:
    life, clock = alive(AutoTerminationPolicy={"IdleTimeout": 300})
    clock.now += 200
    step = Step("s-1", "n", "CONTINUE", "jar", [])
    life.add_steps([step])
    eventually(lambda: step.state == "COMPLETED" and life.cluster.state == "WAITING")
    advance(life, clock, 200)
    life.join(0.2)
    assert life.cluster.state == "WAITING"
    advance(life, clock, 100)
    life.join(5)
    assert life.cluster.state == "TERMINATED"


def test_a_protected_cluster_does_not_end_for_being_idle(alive: Any) -> None:
    life, clock = alive(AutoTerminationPolicy={"IdleTimeout": 60}, Instances={"TerminationProtected": True})
    advance(life, clock, 600)
    life.join(0.2)
    assert life.cluster.state == "WAITING"
    life.update(protected=False)
    life.join(5)
    assert life.cluster.state == "TERMINATED"


def test_a_fault_of_the_server_ends_the_cluster_with_a_reason(alive: Any) -> None:
    class Broken(FakeWorker):
        def prepare(self) -> None:
            raise OSError("disk full")

    life = ClusterLifecycle(
        cluster_from({"Name": "n", "Instances": {"MasterInstanceType": "x"}}, "eu-west-3", "1"), Broken()
    )
    life.begin()
    life.join(5)
    assert life.cluster.state == "TERMINATED_WITH_ERRORS"
    assert (life.cluster.code, life.cluster.message) == ("INTERNAL_ERROR", "OSError: disk full")


def test_a_cluster_that_was_alive_when_the_server_was_killed_comes_back_as_ended(
    alive: Any, tmp_path: Path
) -> None:
    class Backend:
        def __init__(self, *lives: ClusterLifecycle) -> None:
            self.lifecycles = {life.cluster.id: life for life in lives}

        def restore(self, cluster: Cluster) -> None:
            self.lifecycles[cluster.id] = ClusterLifecycle(cluster, FakeWorker())

    class Backends(dict[str, dict[str, Backend]]):
        def iter_backends(self) -> list[tuple[str, str, Backend]]:
            return [("1", "eu-west-3", self["1"]["eu-west-3"])]

    life, _ = alive()
    life.cluster.steps = [
        Step("s-1", "a", "CONTINUE", "jar", [], state="RUNNING"),
        Step("s-2", "b", "CONTINUE", "jar", []),
    ]
    ClusterStore(tmp_path, Backends({"1": {"eu-west-3": Backend(life)}})).save()
    after = Backend()
    ClusterStore(tmp_path, Backends({"1": {"eu-west-3": after}})).load()
    cluster = after.lifecycles[life.cluster.id].cluster
    assert (cluster.state, cluster.code) == ("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR")
    assert [step.state for step in cluster.steps] == ["INTERRUPTED", "CANCELLED"]
    assert cluster.ended


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
