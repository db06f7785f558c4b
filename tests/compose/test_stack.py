"""`docker compose up`: what runs, how it is shut in, and a run of the DAG with the form's defaults."""

from __future__ import annotations

import subprocess
import urllib.error

import pytest
from stack import UP_SECONDS, ComposeStack, DagRun, summary_in_s3

from support.waiting import answer_when

LASTING = {"postgres", "api-server", "scheduler", "dag-processor", "triggerer", "local-aws"}
ONCE = {"init", "local-account"}
SECRETS = ("POSTGRES_PASSWORD", "FERNET_KEY", "API_SECRET_KEY", "JWT_SECRET", "UI_PASSWORD")
ALIVE = """
import boto3
emr = boto3.client("emr", region_name="eu-west-3")
states = ["STARTING", "BOOTSTRAPPING", "RUNNING", "WAITING", "TERMINATING"]
print(len(emr.list_clusters()["Clusters"]), len(emr.list_clusters(ClusterStates=states)["Clusters"]))
"""


@pytest.fixture(scope="module")
def run(stack: ComposeStack) -> DagRun:
    """A run of the DAG with the form's defaults, ended."""
    run = stack.api.trigger()
    run.wait()
    return run


def test_every_service_is_healthy_and_the_others_did_their_work(stack: ComposeStack) -> None:
    found = stack.containers()
    assert set(found) == LASTING | ONCE
    assert {found[name]["State"]["Health"]["Status"] for name in LASTING} == {"healthy"}
    assert {(found[name]["State"]["Status"], found[name]["State"]["ExitCode"]) for name in ONCE} == {
        ("exited", 0)
    }


def test_airflow_says_that_its_components_are_healthy(stack: ComposeStack) -> None:
    health = stack.api.call("GET", "/api/v2/monitor/health")
    assert {name: part["status"] for name, part in health.items()} == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_ports_are_published_on_loopback_only(stack: ComposeStack) -> None:
    published = {
        (name, binding["HostIp"], binding["HostPort"])
        for name, found in stack.containers().items()
        for bindings in found["NetworkSettings"]["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {
        ("api-server", "127.0.0.1", stack.env["AIRFLOW_PORT"]),
        ("local-aws", "127.0.0.1", stack.env["LOCAL_AWS_PORT"]),
    }


def test_containers_are_shut_in(stack: ComposeStack) -> None:
    found = stack.containers()
    for name, container in found.items():
        host = container["HostConfig"]
        assert host["Memory"] > 0, name
        assert host["CapDrop"] == ["ALL"], name
        assert not host["CapAdd"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert not host["Privileged"], name
        assert host["ReadonlyRootfs"], name
    assert sum(found[name]["HostConfig"]["Memory"] for name in LASTING) < 7e9


def test_nothing_runs_as_root(stack: ComposeStack) -> None:
    for name in LASTING:
        uid = stack.compose("exec", "-T", name, "cat", "/proc/1/status").stdout.partition("Uid:")[2].split()
        assert set(uid[:4]).isdisjoint({"0"}), name


def test_services_start_again_after_a_fault_and_those_that_run_once_do_not(stack: ComposeStack) -> None:
    policies = {name: c["HostConfig"]["RestartPolicy"]["Name"] for name, c in stack.containers().items()}
    assert policies == {**dict.fromkeys(LASTING, "unless-stopped"), **dict.fromkeys(ONCE, "no")}


def test_only_the_password_of_env_opens_airflow(stack: ComposeStack) -> None:
    for password in ("", "admin", stack.password + "x"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            stack.api.call("POST", "/auth/token", {"username": stack.user, "password": password})
        assert refused.value.code in (400, 401)
    assert stack.api.call("GET", "/api/v2/dags")["dags"] is not None


def test_no_secret_is_in_the_image(stack: ComposeStack) -> None:
    image = stack.env["FRUITS_IMAGE"]
    command = ["docker", "history", "--no-trunc", "--format", "{{json .}}", image]
    history = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    config = subprocess.run(["docker", "image", "inspect", image], capture_output=True, text=True, check=True)
    # Nothing of the repository but what the services run, so no .env and no .git either.
    files = stack.compose(
        *("exec", "-T", "local-aws", "find", "/opt/fruits", "-maxdepth", "1", "-printf", "%f\\n")
    ).stdout.split()
    assert set(files) == {"fruits", "bootstrap", "dags", "emr_configs", "local_emr", "spark_jobs"}
    for name in SECRETS:
        secret = stack.env[name]
        assert len(secret) >= 20
        assert secret not in history + config.stdout
        grep = stack.compose(
            *("exec", "-T", "local-aws", "grep", "--recursive", "--files-with-matches", "--fixed-strings"),
            *(secret, "/opt/fruits", "/home", "/usr/local/bin"),
            check=False,
        )
        assert (grep.returncode, grep.stdout) == (1, ""), name


def test_the_other_dags_wait_to_be_wanted(stack: ComposeStack, run: DagRun) -> None:
    assert stack.api.call("GET", "/api/v2/importErrors")["import_errors"] == []
    paused = {dag["dag_id"]: dag["is_paused"] for dag in stack.api.call("GET", "/api/v2/dags")["dags"]}
    assert {"fruit_features", "cost_report", "reap_clusters", "notebook_cluster"} <= set(paused)
    assert [dag for dag, waits in paused.items() if not waits] == ["fruit_features"]


def test_a_run_with_the_forms_defaults_goes_green(run: DagRun) -> None:
    states = run.tasks()
    failed = [task for task, state in states.items() if state == "failed"]
    assert set(states.values()) == {"success"}, "\n".join(run.log(task)[-2000:] for task in failed) or states
    summary = run.returned("summarise")
    assert (summary["images"], summary["features"], summary["components"]) == (480, 480, 50)
    assert summary["request"]["source"] == "/images"


def test_the_logs_of_a_run_are_seen_in_airflow(run: DagRun) -> None:
    """They are written by the scheduler's container, and read by the API server's."""
    assert "estimate" in run.log("plan_cluster")


def test_no_cluster_is_alive_after_a_run(stack: ComposeStack, run: DagRun) -> None:
    ever, alive = map(int, stack.python("scheduler", ALIVE).split())
    assert (ever > 0, alive) == (True, 0)


def test_what_a_run_wrote_survives_a_restart_of_the_local_aws(stack: ComposeStack, run: DagRun) -> None:
    stack.compose("restart", "local-aws")
    answer_when(
        lambda: stack.containers()["local-aws"]["State"]["Health"]["Status"],
        lambda status: status == "healthy",
        UP_SECONDS,
        "local AWS healthy again",
    )
    assert summary_in_s3(stack, run)["features"] == 480
