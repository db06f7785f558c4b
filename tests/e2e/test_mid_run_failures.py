"""What a real account does to a run in its middle, and how the run ends: told, and with nothing alive.

Whole runs: real Airflow, the local AWS, real Spark; a proxy between them makes the faults. Only the
waits between two tries are shortened.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_aws import DENIED, EXPIRED, THROTTLED, EndCluster, FaultyAws, Refuse
from stage import DagRun, Stage, Told

from fruit_pipeline import demo
from fruit_pipeline.drawn_images import draw_folder

RUN = {"alpha": 0.35, "weights": "random:0", "components": 10}
ALIVE = ("STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING")

# The SDK and Airflow wait for minutes in all; what is waited for here does not come by waiting.
HASTY = """
from botocore import retryhandler
from botocore.retries import standard
retryhandler.delay_exponential = lambda *_, **__: 0.05
standard.ExponentialBackoff.delay_amount = lambda *_: 0.05
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    draw_folder(folder, per_label=1)
    return folder


@pytest.fixture(scope="module")
def mailbox(stage: Stage) -> Told:
    return Told(stage)


@pytest.fixture
def faulty(stage: Stage) -> Iterator[FaultyAws]:
    with FaultyAws(str(stage.aws.endpoint_url), stage.aws.region) as proxy:
        yield proxy


@pytest.fixture
def behind(mailbox: Told, faulty: FaultyAws, tmp_path: Path) -> Iterator[Stage]:
    """The stage, reaching the local AWS through the proxy; nothing in its mailbox is of another run."""
    stage, connection = mailbox.stage, "AIRFLOW_CONN_AWS_LOCAL"
    (tmp_path / "sitecustomize.py").write_text(HASTY)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {
        connection: stage.environment[connection].replace(str(stage.aws.endpoint_url), faulty.endpoint),
        "AIRFLOW__CORE__MAX_TASK_RETRY_DELAY": "1",
        "PYTHONPATH": os.pathsep.join(path),
    }
    mailbox.read()
    yield stage.with_environment(**variables)
    mailbox.read()


def until(done: Callable[[], bool], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.2)


def clusters_of(stage: Stage, run_key: str) -> list[dict[str, Any]]:
    return [cluster for cluster in stage.clusters() if cluster["Name"].split()[-1] == run_key]


def failed(run: DagRun, stage: Stage) -> str:
    """The log of a run that failed and left nothing alive."""
    assert not run.ok, run.log[-5000:]
    assert stage.clusters(*ALIVE) == []
    return run.log


# Clusters that end


@pytest.mark.parametrize(
    ("code", "reason", "names", "when", "advice"),
    [
        (
            "INSTANCE_FLEET_TIMEOUT",
            "The requested Spot capacity of the TASK fleet was not provisioned within 15 minutes",
            ["DescribeCluster"],
            {"after": "AddJobFlowSteps"},
            "EC2 had no capacity, Spot or on demand, for a fleet within its time: try again later, or with a "
            "shape of other instance types",
        ),
        (
            "INSTANCE_FAILURE",
            "All core nodes were lost: EC2 took the Spot instances back",
            ["DescribeStep"],
            {},
            "where EC2 took Spot nodes back, with a shape that has them on demand",
        ),
        (
            "USER_REQUEST",
            "Terminated by user request",
            ["AddJobFlowSteps"],
            {"skip": 1},
            "somebody terminated it, or the reaper: nothing is to be mended",
        ),
    ],
    ids=["while it starts", "at a step", "between steps"],
)
def test_a_cluster_that_ends_is_told_with_its_reason_and_what_to_do(
    behind: Stage,
    mailbox: Told,
    faulty: FaultyAws,
    source: Path,
    code: str,
    reason: str,
    names: list[str],
    when: dict[str, Any],
    advice: str,
) -> None:
    run_key = f"ends-{code.lower().replace('_', '-')}"
    fault = faulty.add(EndCluster(code, reason, *names, **when))
    log = failed(behind.run(run_key, source=str(source), shape="graviton", **RUN), behind)
    assert fault.caught.total() == 1
    (cluster,) = clusters_of(behind, run_key)
    expected = f"cluster {cluster['Id']} is "
    line = next(line for line in log.splitlines() if "AirflowFailException: " in line and expected in line)
    assert f"({code}: {reason}); " in line
    assert advice in line
    assert f"its logs: s3://{demo.BUCKET}/runs/{run_key}/logs/{cluster['Id']}/" in line
    assert "Clear the task that created the cluster, and those after it, to resume on a new one" in line
    message = mailbox.read()[-1]
    assert message["Subject"].startswith(f"Run failed: {run_key} (")
    assert f"({code}: {reason}); " in message["Message"]
    assert advice in message["Message"]
    assert "MAY STILL BE ALIVE" not in message["Message"]


# Throttling


EMR_CALLS = (
    *("RunJobFlow", "ListClusters", "DescribeCluster", "TerminateJobFlows", "SetTerminationProtection"),
    *("AddJobFlowSteps", "ListSteps", "DescribeStep"),
)


def test_a_storm_of_throttling_is_outlasted(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path
) -> None:
    """Each call of EMR is throttled seven times running: more than the SDK tries by itself."""
    times = dict.fromkeys(EMR_CALLS, 7) | {"RunJobFlow": 1}
    faults = [faulty.add(Refuse(THROTTLED, name, times=n)) for name, n in times.items()]
    run = behind.run("storm", source=str(source), **RUN)
    assert run.ok, run.log[-5000:]
    assert run.summary()["features"] == 12
    assert [fault.caught.total() for fault in faults] == [*times.values()]
    assert len(clusters_of(behind, "storm")) == 1, "a retry made a second cluster"
    assert behind.clusters(*ALIVE) == []
    assert "AWS throttles" in run.log


def test_throttling_that_does_not_end_ends_the_run_and_its_cluster(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path
) -> None:
    fault = faulty.add(Refuse(THROTTLED, "DescribeStep"))
    log = failed(behind.run("throttled", source=str(source), **RUN), behind)
    (cluster,) = clusters_of(behind, "throttled")
    text = (
        f"cluster {cluster['Id']}: AWS throttles DescribeStep (ThrottlingException), after every retry; "
        "try again in some minutes"
    )
    assert log.count(f"AirflowException: {text}") >= 2, "the task was not tried again"
    assert fault.caught["DescribeStep"] > log.count(text), "the SDK did not try again"
    message = mailbox.read()[-1]
    assert message["Subject"] == "Run failed: throttled (wait_for_extraction)"
    assert text in message["Message"]


# Permissions


def test_a_call_that_is_denied_ends_the_run_at_once_with_the_permission_to_grant(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path
) -> None:
    fault = faulty.add(Refuse(DENIED, "AddJobFlowSteps"))
    log = failed(behind.run("denied", source=str(source), **RUN), behind)
    (cluster,) = clusters_of(behind, "denied")
    text = (
        f"cluster {cluster['Id']}: AddJobFlowSteps is denied; grant elasticmapreduce:AddJobFlowSteps to the "
        "credentials in use, in their or its policy"
    )
    assert f"AirflowFailException: {text}" in log
    assert fault.caught.total() == 1, "what is denied is not asked for again"
    message = mailbox.read()[-1]
    assert message["Subject"] == "Run failed: denied (add_extraction)"
    assert text in message["Message"]
    assert "MAY STILL BE ALIVE" not in message["Message"]


def test_a_cluster_that_may_not_be_looked_at_is_terminated_all_the_same(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path
) -> None:
    """Denied once there is a cluster: also the teardown cannot see which one is the run's."""
    faulty.add(Refuse(DENIED, "DescribeCluster", after="RunJobFlow"))
    run = behind.run("blind", source=str(source), **RUN)
    assert not run.ok
    (cluster,) = clusters_of(behind, "blind")
    until(lambda: behind.clusters(*ALIVE, "TERMINATING") == [])
    denied = "DescribeCluster is denied; grant elasticmapreduce:DescribeCluster to the credentials in use"
    assert f"AirflowFailException: cluster {cluster['Id']}: {denied}" in run.log
    assert f"AirflowException: cluster {cluster['Id']} was told to end, and was not seen to" in run.log
    message = mailbox.read()[-1]
    assert message["Subject"] == "Run failed: blind (add_extraction)"
    assert denied in message["Message"]


# Credentials


def test_the_teardown_ends_the_cluster_when_expired_credentials_are_renewed(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path
) -> None:
    """Everything is refused from the first step on, until the teardown's third try."""
    faulty.add(Refuse(EXPIRED, after="AddJobFlowSteps", lifts_at=("ListClusters", 3)))
    log = failed(behind.run("renewed", source=str(source), **RUN), behind)
    (cluster,) = clusters_of(behind, "renewed")
    text = f"cluster {cluster['Id']}: the credentials have expired; renew them"
    assert log.count(f"AirflowException: {text}") >= 2, "nobody had the time to renew them"
    assert log.count(f"AirflowException: CLUSTER {cluster['Id']} MAY STILL BE ALIVE") >= 2
    message = mailbox.read()[-1]
    assert message["Subject"] == "Run failed: renewed (cluster_ready)"
    assert text in message["Message"]
    assert "MAY STILL BE ALIVE" not in message["Message"], "it has ended, in the end"


def test_a_cluster_that_expired_credentials_leave_behind_is_told_and_ends_by_its_idle_timeout(
    behind: Stage, mailbox: Told, faulty: FaultyAws, source: Path, tmp_path: Path
) -> None:
    for part in ("spark_jobs", "bootstrap", "emr_configs"):
        shutil.copytree(Path(behind.environment["FRUITS_HOME"]) / part, tmp_path / part)
    shape = tmp_path / "emr_configs" / "small.json"
    text = shape.read_text()
    assert '"idle_timeout_seconds": 900' in text
    shape.write_text(text.replace('"idle_timeout_seconds": 900', '"idle_timeout_seconds": 60'))
    faulty.add(Refuse(EXPIRED, after="AddJobFlowSteps"))
    stage = behind.with_environment(FRUITS_HOME=str(tmp_path))
    run = stage.run("expired", source=str(source), **RUN)
    assert not run.ok
    (cluster,) = clusters_of(stage, "expired")
    alarm = (
        f"AirflowException: CLUSTER {cluster['Id']} MAY STILL BE ALIVE, AND COST MONEY, until it is "
        "terminated in the EMR console or ends by its idle timeout: run expired: the credentials have "
        "expired; renew them. Then clear this task"
    )
    assert run.log.count(alarm) >= 6, "the teardown was not tried five times more"
    assert "the message was not sent: " in run.log, "SNS takes the same credentials"
    until(lambda: stage.clusters(*ALIVE, "TERMINATING") == [])
    reason = stage.aws.client("emr").describe_cluster(ClusterId=cluster["Id"])["Cluster"]["Status"]
    assert reason["StateChangeReason"]["Code"] == "ALL_STEPS_COMPLETED"
    assert "auto-termination" in reason["StateChangeReason"]["Message"]
