"""A notebook cluster: until when it lives, who may have one, how it is reached, and how it ends.

On the local EMR up to the commands; no browser opens, and nobody tunnels.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import botocore.session
import pytest
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred
from botocore.validate import ParamValidator

from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.aws.clusters import RUN_TAG, UNTIL_TAG, name_of
from fruit_pipeline.cluster import emr_limits
from fruit_pipeline.cluster import shapes as cluster_shapes
from fruit_pipeline.dag.form import airflow_params
from fruit_pipeline.dag.sensors import ClusterEnded
from fruit_pipeline.housekeeping import stored_runs
from fruit_pipeline.housekeeping.reaper import UNTIL, living_clusters
from fruit_pipeline.notebook_cluster import connect
from fruit_pipeline.notebook_cluster import plan as notebook_cluster_plan
from fruit_pipeline.notify.texts import Words
from image_features.errors import JobError
from support.emr_model import refused_by_emr
from support.instant_aws import InstantAws
from support.local_aws import BUCKET, REGION
from support.mailbox import Mailbox
from support.waiting import eventually

PARIS, TOKYO = ZoneInfo("Europe/Paris"), ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)  # 13:00 in Paris, 21:00 in Tokyo


# Until when


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("3h", PARIS, "2026-11-21T15:00:00+00:00"),
        ("90m", PARIS, "2026-11-21T13:30:00+00:00"),
        ("24h", PARIS, "2026-11-22T12:00:00+00:00"),
        ("1m", PARIS, "2026-11-21T12:01:00+00:00"),
        ("18:30", PARIS, "2026-11-21T17:30:00+00:00"),
        ("18:30", TOKYO, "2026-11-22T09:30:00+00:00"),
        (" 9:05 ", PARIS, "2026-11-22T08:05:00+00:00"),
        # The hour that it is: the next one.
        ("13:00", PARIS, "2026-11-22T12:00:00+00:00"),
        ("00:00", PARIS, "2026-11-21T23:00:00+00:00"),
    ],
)
def test_until_is_an_hour_of_the_day_or_a_time_from_now(text: str, zone: ZoneInfo, expected: str) -> None:
    assert notebook_cluster_plan.until_of(text, NOW, zone).isoformat() == expected


def test_a_time_of_day_follows_daylight_saving_time() -> None:
    before = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)  # 22:00; winter time comes that night
    assert notebook_cluster_plan.until_of("9:00", before, PARIS) == datetime(2026, 10, 25, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "12:60", "0h", "0m", "25h", "1441m", "-1h", "1.5h", "3 h", "18h30", "7d"]
)
def test_what_means_no_moment_within_a_day_is_refused(text: str) -> None:
    with pytest.raises(JobError, match=r"until '.*': give "):
        notebook_cluster_plan.until_of(text, NOW, PARIS)


# The form


def form(owner: str | None = "ada") -> dict[str, Any]:
    return airflow_params(notebook_cluster_plan.param_specs({"notebook": "a small one"}, owner, PARIS))


@pytest.mark.parametrize("text", ["18:30", "9:05", "3h", "90m"])
def test_the_form_takes_what_until_takes(text: str) -> None:
    assert form()["until"].resolve(text) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("until", "soon"),
        ("until", "x3h"),
        ("until", "3hours"),
        ("owner", "Ada Lovelace"),
        ("owner", "-ada"),
        ("owner", "a" * 31),
        ("owner", "ada/../bob"),
        ("shape", "small"),
    ],
)
def test_the_form_refuses_what_would_be_refused_later(name: str, value: str) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    with pytest.raises(ParamValidationError):
        form()[name].resolve(value)


def test_the_owner_is_the_deployments_where_it_can_be_one() -> None:
    assert form("ada")["owner"].value == "ada"
    assert form("Data Team")["owner"].value is None
    assert form(None)["owner"].value is None
    assert "(Europe/Paris)" in form()["until"].description


# The plan


@pytest.fixture
def account(clusters: InstantAws, deployed: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    deployed.setenv("FRUITS_NODE_TARGET", "host")
    deployed.setenv("FRUITS_TIME_ZONE", "Europe/Paris")
    return deployed


def params(**changed: Any) -> dict[str, Any]:
    return {"owner": "ada", "shape": "notebook", "until": "3h", **changed}


@pytest.fixture
def planned(account: pytest.MonkeyPatch) -> dict[str, Any]:
    return notebook_cluster_plan.plan(params())


def test_the_plan_is_a_request_that_emr_takes_with_its_end_as_a_tag(
    planned: dict[str, Any], clusters: InstantAws
) -> None:
    request = planned["cluster"]
    roles = {"ServiceRole", "JobFlowRole"}
    assert roles <= set(request)
    assert refused_by_emr("RunJobFlow", request) == ""
    assert "JupyterHub" in {application["Name"] for application in request["Applications"]}
    tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
    assert tags[RUN_TAG] == planned["run_key"] == "_notebook-ada"
    end = datetime.fromisoformat(tags[UNTIL_TAG])
    assert end.replace(microsecond=0) == datetime.fromisoformat(planned["until"]).replace(microsecond=0)
    assert json.loads(json.dumps(planned)) == planned, "XCom keeps it"
    assert planned["kept"] == f"s3://{BUCKET}/jupyter/"


def test_the_plan_puts_what_the_nodes_need_into_the_bucket(
    planned: dict[str, Any], clusters: InstantAws
) -> None:
    (action,) = planned["cluster"]["BootstrapActions"]
    script = action["ScriptBootstrapAction"]
    assert script["Path"] == f"s3://{BUCKET}/runs/_notebook-ada/code/install.sh"
    assert "install.sh" in clusters.keys("runs/_notebook-ada/code")
    (wheelhouse,) = script["Args"]
    assert clusters.keys(wheelhouse.removeprefix(f"s3://{BUCKET}/"))
    # A run's key cannot be a notebook's.
    from fruit_pipeline.run.request import RUN_KEY

    assert not RUN_KEY.fullmatch(planned["run_key"])
    assert planned["run_key"].startswith(stored_runs.NOTEBOOK)


def test_the_cluster_of_a_plan_is_one_that_the_reaper_ends(
    planned: dict[str, Any], clusters: InstantAws
) -> None:
    request = {**planned["cluster"], "BootstrapActions": []}
    cluster_id = clusters.emr.run_job_flow(**request)["JobFlowId"]
    found = next(item for item in living_clusters(clusters.emr) if item.cluster_id == cluster_id)
    assert found.orphan_reason(datetime.now(UTC), timedelta(0)) is None, "its tag decides, not its age"
    assert found.orphan_reason(datetime.now(UTC) + timedelta(hours=4), timedelta(days=1)) == UNTIL


def test_the_end_counts_from_the_plan(account: pytest.MonkeyPatch) -> None:
    before = datetime.now(UTC)
    end = datetime.fromisoformat(notebook_cluster_plan.plan(params())["until"])
    assert before <= end - timedelta(hours=3) <= datetime.now(UTC)


def test_the_tag_of_the_end_is_held_against_emrs_limits_as_well(
    account: pytest.MonkeyPatch, planned: dict[str, Any]
) -> None:
    """One tag more than EMR takes: the plan says so, not RunJobFlow."""
    tags = len(planned["cluster"]["Tags"])
    account.setattr(emr_limits, "MAX_TAGS", tags - 1)
    with pytest.raises(JobError, match=f"Tags has {tags} tags, EMR allows {tags - 1}"):
        notebook_cluster_plan.plan(params())


def test_an_owner_has_one_cluster_at_a_time(account: pytest.MonkeyPatch, clusters: InstantAws) -> None:
    key = f"{stored_runs.NOTEBOOK}ada"
    cluster_id = clusters.run(name=name_of(key), tags={RUN_TAG: key})
    with pytest.raises(
        JobError, match=f"ada has a notebook cluster already, {cluster_id}: .*terminate-clusters"
    ):
        notebook_cluster_plan.plan(params())
    assert notebook_cluster_plan.plan(params(owner="bob"))["run_key"] == f"{stored_runs.NOTEBOOK}bob"


@pytest.mark.parametrize(
    ("changed", "environment", "message"),
    [
        ({"owner": None}, {}, "no owner: set the Param 'owner', or FRUITS_OWNER"),
        ({"until": "soon"}, {}, "until 'soon'"),
        ({"shape": "huge"}, {}, "unknown cluster shape 'huge'"),
        ({}, {"FRUITS_BUCKET": ""}, "set FRUITS_BUCKET"),
        ({}, {"FRUITS_BUCKET": "no-such-bucket-anywhere"}, "bucket no-such-bucket-anywhere"),
        ({}, {"FRUITS_ALLOWED_REGIONS": "eu-north-1"}, "region eu-west-3 is not allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_uploaded(
    account: pytest.MonkeyPatch,
    clusters: InstantAws,
    changed: dict[str, Any],
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        account.setenv(name, value)
    with pytest.raises(JobError, match=message):
        notebook_cluster_plan.plan(params(**{"owner": "eve", **changed}))
    assert clusters.keys("runs/_notebook-eve") == []


# Reaching it


@pytest.fixture
def start(clusters: InstantAws) -> Callable[..., str]:
    def run(**more: Any) -> str:
        cluster_id = clusters.run(name="notebook", tags={RUN_TAG: "_notebook-ada"}, **more)
        eventually(lambda: clusters.state(cluster_id) == "WAITING")
        return cluster_id

    return run


def fleets() -> dict[str, Any]:
    configs = [{"InstanceType": "m5.xlarge"}]
    found = [
        {"InstanceFleetType": role, "TargetOnDemandCapacity": 1, "InstanceTypeConfigs": configs}
        for role in ("MASTER", "CORE")
    ]
    return {"InstanceFleets": found, "InstanceGroups": []}


@pytest.mark.parametrize("instances", [{}, fleets()], ids=["groups", "fleets"])
def test_the_tunnel_by_session_manager_is_a_call_that_aws_takes(
    start: Callable[..., str], clusters: InstantAws, instances: dict[str, Any]
) -> None:
    cluster_id = start(Instances=instances)
    ssm, ssh = connect.tunnels(clusters.emr, cluster_id, REGION)
    words = shlex.split(ssm)
    assert words[:3] == ["aws", "ssm", "start-session"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options["--region"] == REGION
    primary = next(
        item
        for item in clusters.emr.list_instances(ClusterId=cluster_id)["Instances"]
        if item["Ec2InstanceId"] == options["--target"]
    )
    described = clusters.emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    assert primary["PublicDnsName"] == described["MasterPublicDnsName"]
    request = {
        "Target": options["--target"],
        "DocumentName": options["--document-name"],
        "Parameters": json.loads(options["--parameters"]),
    }
    assert request["DocumentName"] == "AWS-StartPortForwardingSession"
    assert request["Parameters"] == {"portNumber": ["9443"], "localPortNumber": ["9443"]}
    service = botocore.session.get_session().get_service_model("ssm")
    shape = service.operation_model("StartSession").input_shape
    assert ParamValidator().validate(request, shape).generate_report() == ""
    assert ssh.endswith(f"-N -L 9443:localhost:9443 hadoop@{described['MasterPublicDnsName']}")


def test_the_owner_gets_the_commands_to_connect(
    start: Callable[..., str],
    clusters: InstantAws,
    mailbox: Mailbox,
    deployed: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    cluster_id = start()
    deployed.setenv("FRUITS_TIME_ZONE", "Europe/Paris")
    plan = {
        "owner": "ada",
        "until": "2026-11-21T17:30:00+00:00",
        "idle_seconds": 14_400,
        "kept": f"s3://{BUCKET}/jupyter/",
    }
    text = connect.notify_how_to_connect(plan, cluster_id)
    ssm, ssh = connect.tunnels(clusters.emr, cluster_id, REGION)
    assert f"The notebook cluster {cluster_id} of ada is ready until 2026-11-21 18:30 CET." in text
    assert "idle for 4 h 00 min" in text
    lines = text.splitlines()
    assert lines.index(f"  {ssm}") < lines.index(f"  {ssh}"), "Session Manager comes first"
    assert "https://localhost:9443" in text
    assert f"Notebooks are stored in s3://{BUCKET}/jupyter/." in lines
    assert lines[-1] == f"  aws emr terminate-clusters --region {REGION} --cluster-ids {cluster_id}"
    logged = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line not in logged] == [], "the log has the commands, unbroken"
    (received,) = mailbox.read()
    assert received["Subject"] == "Notebook cluster ready: ada"
    assert received["Message"] == text
    french = connect.how_to_connect(Words("fr"), plan, cluster_id, clusters.emr, REGION).text
    assert f"  {ssm}" in french.splitlines()
    assert "Ouvrez ensuite https://localhost:9443" in french


# Its end


@pytest.fixture
def over(connection: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClusterEnded]:
    monkeypatch.setattr(ExecutorSafeguard, "test_mode", True)

    def make(cluster_id: str, left: timedelta) -> ClusterEnded:
        return ClusterEnded(
            task_id="over",
            job_flow_id=cluster_id,
            until=(datetime.now(UTC) + left).isoformat(),
            poke_interval=1,
            aws_conn_id=connection,
            region_name=REGION,
        )

    return make


def run_to_end(operator: ClusterEnded, polls: list[datetime]) -> str:
    """As a worker and a triggerer do; ``polls`` gets the time of each poll."""
    event: Any = None
    while True:
        polls.append(datetime.now(UTC))
        try:
            return operator.execute({}, event)
        except TaskDeferred as deferred:
            event = asyncio.run(asyncio.wait_for(first_event(deferred.trigger), 600))


async def first_event(trigger: Any) -> Any:
    async for event in trigger.run():
        return event.payload


def test_the_wait_ends_when_the_time_is_over(
    start: Callable[..., str], over: Callable[..., Any], clusters: InstantAws
) -> None:
    cluster_id, polls = start(), []
    operator = over(cluster_id, timedelta(seconds=4))
    assert run_to_end(operator, polls) == "WAITING"
    # A look is noted just before it is made: on a slow machine only the last may pass the end.
    end = datetime.fromisoformat(operator.until)
    assert [look for look in polls[:-1] if look >= end] == []
    assert datetime.now(UTC) >= end
    assert clusters.alive() == [cluster_id], "ending it is the teardown's"


def test_the_wait_ends_when_the_owner_ended_the_cluster(
    start: Callable[..., str], over: Callable[..., Any], clusters: InstantAws
) -> None:
    cluster_id, polls = start(), []
    operator = over(cluster_id, timedelta(hours=1))
    with pytest.raises(TaskDeferred):
        operator.execute({})
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    assert run_to_end(operator, polls) in aws_clusters.ENDING


def test_a_cluster_that_broke_says_why(
    start: Callable[..., str], over: Callable[..., Any], clusters: InstantAws
) -> None:
    cluster_id = start()
    step = clusters.script("breaks", exit_code=1)
    step["ActionOnFailure"] = "TERMINATE_CLUSTER"
    clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=[step])
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED_WITH_ERRORS")
    with pytest.raises(AirflowFailException, match=f"cluster {cluster_id} is TERMINATED_WITH_ERRORS"):
        run_to_end(over(cluster_id, timedelta(hours=1)), [])


def test_a_poll_holds_a_worker_only_while_it_runs(
    start: Callable[..., str], over: Callable[..., Any]
) -> None:
    operator = over(start(), timedelta(hours=1))
    before = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})
    assert deferred.value.method_name == "execute"
    assert before <= deferred.value.trigger.moment - timedelta(seconds=1) <= datetime.now(UTC)
    assert operator.template_fields == ("job_flow_id", "until")


def test_the_shapes_of_the_form_are_those_for_notebooks(repo: Path) -> None:
    shapes = cluster_shapes.descriptions(repo, cluster_shapes.NOTEBOOKS)
    assert "notebook" in shapes
    assert not set(shapes) & set(cluster_shapes.descriptions(repo))
