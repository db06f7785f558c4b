"""Clusters with JupyterHub: until when one lives, how one reaches it, and the wait for its end."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from fruit_pipeline import cluster, job_code, messages, settings, stock, wheelhouse
from fruit_pipeline.aws import Aws
from fruit_pipeline.failures import explain_cluster
from fruit_pipeline.messages import Message
from fruit_pipeline.reaper import UNTIL_TAG
from fruit_pipeline.words import Words
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.storage import join_uri

log = logging.getLogger(__name__)

DEFAULT_UNTIL = "8h"
LONGEST = timedelta(hours=24)

_OWNER = "[a-z0-9][a-z0-9-]{0,29}"
_UNTIL = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})|(?P<count>\d{1,4})(?P<unit>[hm])"

# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-jupyterhub.html
_PORT = 9443
# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-jupyterhub-s3.html
_KEPT = "jupyter"


def form(shapes: Mapping[str, str], owner: str | None, zone: ZoneInfo) -> dict[str, Any]:
    """The Params of the trigger form; ``owner`` is the deployment's."""
    from airflow.sdk import Param

    return {
        "owner": Param(
            owner if owner and re.fullmatch(_OWNER, owner) else None,
            type=["null", "string"],
            pattern=f"^{_OWNER}$",
            title="Owner",
            description="Who works on it: small letters, digits and '-', 30 at most. One cluster an owner.",
        ),
        "shape": Param(
            next(iter(sorted(shapes)), ""),
            type="string",
            enum=sorted(shapes),
            title="Cluster shape",
            description="; ".join(f"`{name}`: {text}" for name, text in sorted(shapes.items())),
        ),
        "until": Param(
            DEFAULT_UNTIL,
            type="string",
            pattern=f"^({_UNTIL.replace('?P<hour>', '').replace('?P<minute>', '')})$",
            title="Until",
            description=f"The cluster ends then: an hour of the day, such as `18:30` ({zone.key}), or a "
            "time from now, such as `3h` or `90m`; within 24 hours.",
        ),
    }


def until_of(text: str, now: datetime, zone: ZoneInfo) -> datetime:
    """The moment that ``text`` means, in UTC. Raises JobError when it means none within a day.

    An hour of the day is the next one on the clocks of ``zone``.
    """
    match = re.fullmatch(_UNTIL, text.strip())
    if not match:
        raise JobError(f"until {text!r}: give an hour of the day such as 18:30, or a time such as 3h or 90m")
    if match["unit"]:
        left = timedelta(**{"hours" if match["unit"] == "h" else "minutes": int(match["count"])})
        if not timedelta(0) < left <= LONGEST:
            raise JobError(f"until {text!r}: give 1m to 24h")
        return (now + left).astimezone(UTC)
    try:
        hour = time(int(match["hour"]), int(match["minute"]), tzinfo=zone)
    except ValueError:
        raise JobError(f"until {text!r}: give an hour of the day, 00:00 to 23:59") from None
    today = now.astimezone(zone).date()
    found = datetime.combine(today, hour)
    return (found if found > now else datetime.combine(today + timedelta(days=1), hour)).astimezone(UTC)


def plan(params: Mapping[str, Any]) -> dict[str, Any]:
    """Check what was asked for, upload what the nodes need, and make the cluster's request.

    Raises JobError when the owner has a cluster already.
    """
    from fruit_pipeline import guards

    deployment = settings.load()
    aws = Aws.from_connection(deployment.aws_conn_id, deployment.region)
    owner, bucket = str(params["owner"] or ""), deployment.bucket
    if not owner:
        raise JobError("no owner: set the Param 'owner', or FRUITS_OWNER for the deployment")
    if not bucket:
        raise JobError("no bucket: set FRUITS_BUCKET")
    until = until_of(params["until"], datetime.now(UTC), deployment.time_zone)
    shape = cluster.load_shape(deployment.home, params["shape"])
    guards.check_region(deployment)
    guards.check_bucket(bucket, deployment, aws)
    guards.check_roles(deployment, aws)
    guards.check_network(deployment, shape, aws)
    run_key = f"{stock.NOTEBOOK}{owner}"
    alive = cluster.alive_of_run(aws.client("emr"), run_key)
    if alive:
        raise JobError(
            f"{owner} has a notebook cluster already, {alive[0]}: use it, or terminate it with "
            f"aws emr terminate-clusters --region {deployment.region} --cluster-ids {alive[0]}"
        )
    layout = RunLayout(f"s3://{bucket}/{stock.RUNS}/{run_key}")
    job_code.upload(deployment.home, aws.storage(layout.code))
    aws.storage(layout.logs).put(cluster.EVENT_LOGS_MARKER, b"")
    requirements = deployment.home / "bootstrap" / wheelhouse.REQUIREMENTS
    wheels = wheelhouse.build(requirements, deployment.node_target, deployment.cache_dir)
    request = cluster.build_request(
        deployment,
        shape,
        run_key,
        layout.logs,
        join_uri(layout.code, job_code.BOOTSTRAP_SCRIPT),
        wheelhouse.publish(wheels, aws.storage(f"s3://{bucket}/wheelhouse")),
        # The reaper ends it then, should nobody be left to do so.
        more_tags={UNTIL_TAG: until.isoformat(timespec="seconds")},
    )
    return {
        "owner": owner,
        "run_key": run_key,
        "until": until.isoformat(),
        "idle_seconds": shape.idle_timeout_seconds,
        "kept": f"s3://{bucket}/{_KEPT}/" if _keeps_notebooks(request) else None,
        "cluster": request,
    }


def _keeps_notebooks(request: Mapping[str, Any]) -> bool:
    return any(
        item["Classification"] == "jupyter-s3-conf"
        and item.get("Properties", {}).get("s3.persistence.enabled") == "true"
        for item in request["Configurations"]
    )


def tunnels(emr: Any, cluster_id: str, region: str) -> tuple[str, str]:
    """The commands that make JupyterHub answer on this machine: by Session Manager, and by SSH."""
    described = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    fleets = described["InstanceCollectionType"] == "INSTANCE_FLEET"
    role: dict[str, Any] = {"InstanceFleetType": "MASTER"} if fleets else {"InstanceGroupTypes": ["MASTER"]}
    primary = emr.list_instances(ClusterId=cluster_id, **role)["Instances"][0]
    ports = {"portNumber": [str(_PORT)], "localPortNumber": [str(_PORT)]}
    ssm = [
        *("aws", "ssm", "start-session", "--region", region, "--target", primary["Ec2InstanceId"]),
        *("--document-name", "AWS-StartPortForwardingSession", "--parameters", json.dumps(ports)),
    ]
    ssh = f"ssh -i ~/<key>.pem -N -L {_PORT}:localhost:{_PORT} hadoop@{described['MasterPublicDnsName']}"
    return shlex.join(ssm), ssh


def how_to_connect(
    words: Words, planned: Mapping[str, Any], cluster_id: str, emr: Any, region: str
) -> Message:
    """What the owner needs to work on the cluster; ``planned`` is the result of `plan`."""
    ssm, ssh = tunnels(emr, cluster_id, region)
    text = words(
        "notebook.text",
        cluster_id=cluster_id,
        owner=planned["owner"],
        until=words.moment(datetime.fromisoformat(planned["until"])),
        idle=words.duration(planned["idle_seconds"]),
    )
    kept = [words("notebook.kept", place=planned["kept"])] if planned["kept"] else []
    lines = [
        *(text, "", words("notebook.ssm"), f"  {ssm}", "", words("notebook.ssh"), f"  {ssh}", ""),
        words("notebook.open", url=f"https://localhost:{_PORT}"),
        words("notebook.login"),
        *kept,
        *(
            "",
            words("notebook.end"),
            f"  aws emr terminate-clusters --region {region} --cluster-ids {cluster_id}",
        ),
    ]
    return Message(words("notebook.subject", owner=planned["owner"]), "\n".join(lines))


def say_how_to_connect(planned: Mapping[str, Any], cluster_id: str) -> str:
    """Print the commands into the task's log, and send them; return the text."""
    deployment = settings.load()
    emr = Aws.from_connection(deployment.aws_conn_id, deployment.region).client("emr")
    message = how_to_connect(messages.words_of(deployment), planned, cluster_id, emr, deployment.region)
    for line in message.text.splitlines():
        log.info("%s", line)
    messages.send(lambda _: message)
    return message.text


class ClusterOver(BaseOperator):
    """Waits until the cluster has ended, by its idle timeout or its owner, or until its time is over.

    Between two looks it holds no worker: the triggerer wakes it.
    """

    template_fields = ("job_flow_id", "until")

    def __init__(
        self,
        *,
        job_flow_id: str,
        until: str,
        look_seconds: int,
        aws_conn_id: str,
        region_name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_flow_id = job_flow_id
        self.until = until
        self.look_seconds = look_seconds
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Any, event: Any = None) -> str:
        """The cluster's state at the end of the wait."""
        from airflow.providers.standard.triggers.temporal import DateTimeTrigger

        emr = Aws.from_connection(self.aws_conn_id, self.region_name).client("emr")
        state: str = emr.describe_cluster(ClusterId=self.job_flow_id)["Cluster"]["Status"]["State"]
        if state == "TERMINATED_WITH_ERRORS":
            raise AirflowFailException(explain_cluster(emr, self.job_flow_id))
        if state in cluster.ENDING:
            self.log.info("cluster %s is %s", self.job_flow_id, state)
            return state
        now, until = datetime.now(UTC), datetime.fromisoformat(str(self.until))
        if now >= until:
            self.log.info("the time of cluster %s is over", self.job_flow_id)
            return state
        moment = min(until, now + timedelta(seconds=self.look_seconds))
        self.defer(trigger=DateTimeTrigger(moment=moment), method_name="execute")
