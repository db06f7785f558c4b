"""Airflow's own processes, and those of its tasks, that are killed while a run is under way.

What is killed starts again, as systemd or compose (`restart: unless-stopped`) would have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest
from testbed import Testbed, conf_of
from trial import Ended, Trial
from victims import Fall, Hit

from fruit_pipeline.demo import run as demo_run
from support.airflow_components import ENDED, Components
from support.mailbox import Mailbox

DAG = f"/api/v2/dags/{demo_run.DAG_ID}"

# Airflow notices in minutes what it does not hear of any more; only these waits are shortened.
SOONER = {
    "AIRFLOW__SCHEDULER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__CORE__PARALLELISM": "4",
}

Run = Callable[[], Ended]


@pytest.fixture(scope="module")
def airflow(testbed: Testbed, mailbox: Mailbox) -> Iterator[Components]:
    with testbed.airflow(FRUITS_SNS_TOPIC_ARN=mailbox.topic, **SOONER) as components:
        yield components


@pytest.fixture
def run(trial: Trial, airflow: Components) -> Run:
    """One run, triggered by the API."""

    def triggered() -> Ended:
        body = {"logical_date": None, "conf": conf_of(trial.testbed, trial.run_key)}
        made = airflow.api.call("POST", f"{DAG}/dagRuns", body)
        path = f"{DAG}/dagRuns/{quote(made['dag_run_id'])}"
        ended = airflow.api.until(path, lambda answer: answer["state"] in ENDED, 700)
        tasks = airflow.api.call("GET", f"{path}/taskInstances")["task_instances"]
        log = "\n".join(f"{task['task_id']} {task['state']}, try {task['try_number']}" for task in tasks)
        trial.testbed.proxy.lift()
        last = (trial.mailbox.read() or [{"Message": "", "Subject": ""}])[-1]
        return Ended(ended["state"] == "success", log, last["Message"], last["Subject"])

    return triggered


def of_run(trial: Trial) -> list[str]:
    """Ids of all clusters that the run ever had."""
    return [c["Id"] for c in trial.stage.clusters() if c["Name"].split()[-1] == trial.run_key]


@pytest.mark.fault("the scheduler is killed in mid-extraction")
def test_scheduler_killed(trial: Trial, airflow: Components, run: Run) -> None:
    trial.add(Fall(airflow, "scheduler", "PUT", path=f"{trial.prefix}/features/shard-00003"))
    trial.goes_through(run)


@pytest.mark.fault("the scheduler is killed with a task that it runs, the checks")
def test_scheduler_killed_with_a_task(trial: Trial, airflow: Components, run: Run) -> None:
    checks = Fall(airflow, "scheduler", "GET", path=f"{trial.prefix}/pca/shard-", below="scheduler")
    trial.add(checks)
    trial.goes_through(run)


@pytest.mark.fault("the triggerer is killed while a sensor is deferred to it")
def test_triggerer_killed(trial: Trial, airflow: Components, run: Run) -> None:
    trial.add(Fall(airflow, "triggerer", "DescribeStep", below="triggerer"))
    trial.goes_through(run)


@pytest.mark.fault("the dag-processor is killed in mid-extraction")
def test_dag_processor_killed(trial: Trial, airflow: Components, run: Run) -> None:
    trial.add(Fall(airflow, "dag-processor", "PUT", path=f"{trial.prefix}/features/shard-00003"))
    trial.goes_through(run)


@pytest.mark.parametrize(("when", "done"), [("before RunJobFlow is sent", False), ("after RunJobFlow", True)])
@pytest.mark.fault("the task that creates the cluster is killed {when}")
def test_create_killed(trial: Trial, run: Run, when: str, done: bool) -> None:
    trial.add(Hit("RunJobFlow", done=done))
    trial.goes_through(run)
    assert len(of_run(trial)) == 1, "a second cluster was made"


@pytest.mark.fault("the task that adds a step is killed after AddJobFlowSteps")
def test_add_step_killed(trial: Trial, run: Run) -> None:
    trial.add(Hit("AddJobFlowSteps", done=True))
    trial.goes_through(run)
    (cluster,) = of_run(trial)
    steps = trial.stage.aws.client("emr").list_steps(ClusterId=cluster)["Steps"]
    assert len(steps) == 2, "a step was added twice"


@pytest.mark.fault("the task that checks the output is killed at its reading of pca/")
def test_check_killed(trial: Trial, run: Run) -> None:
    trial.add(Hit("GET", path=f"{trial.prefix}/pca/shard-", below="scheduler"))
    trial.goes_through(run)


@pytest.mark.parametrize(
    ("when", "done"), [("before TerminateJobFlows is sent", False), ("after TerminateJobFlows", True)]
)
@pytest.mark.fault("the task that terminates the cluster is killed {when}")
def test_teardown_killed(trial: Trial, run: Run, when: str, done: bool) -> None:
    trial.add(Hit("TerminateJobFlows", done=done))
    trial.goes_through(run)
