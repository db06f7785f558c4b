"""Commands by which the owner of a notebook cluster connects to its JupyterHub, and the message with them."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.notify import messages
from fruit_pipeline.notify.messages import Message
from fruit_pipeline.notify.texts import Words

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/emr/latest/ReleaseGuide/emr-jupyterhub.html
_PORT = 9443


def tunnels(emr: Any, cluster_id: str, region: str) -> tuple[str, str]:
    """The commands that forward JupyterHub's port to this machine: by Session Manager, and by SSH."""
    cluster = clusters.describe(emr, cluster_id)
    role: dict[str, Any] = (
        {"InstanceFleetType": "MASTER"} if cluster.uses_fleets else {"InstanceGroupTypes": ["MASTER"]}
    )
    primary = emr.list_instances(ClusterId=cluster_id, **role)["Instances"][0]
    ports = {"portNumber": [str(_PORT)], "localPortNumber": [str(_PORT)]}
    ssm = [
        *("aws", "ssm", "start-session", "--region", region, "--target", primary["Ec2InstanceId"]),
        *("--document-name", "AWS-StartPortForwardingSession", "--parameters", json.dumps(ports)),
    ]
    ssh = f"ssh -i ~/<key>.pem -N -L {_PORT}:localhost:{_PORT} hadoop@{cluster.primary_dns}"
    return shlex.join(ssm), ssh


def how_to_connect(
    words: Words, planned: Mapping[str, Any], cluster_id: str, emr: Any, region: str
) -> Message:
    """The message for the owner; ``planned`` is the result of `plan`."""
    ssm, ssh = tunnels(emr, cluster_id, region)
    text = words(
        "notebook.text",
        cluster_id=cluster_id,
        owner=planned["owner"],
        until=words.moment(datetime.fromisoformat(planned["until"])),
        idle=words.duration(planned["idle_seconds"]),
    )
    kept = [words("notebook.place", place=planned["kept"])] if planned["kept"] else []
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


def notify_how_to_connect(planned: Mapping[str, Any], cluster_id: str) -> str:
    """Log the message and send it to the topic; return its text."""
    deployment = settings.load()
    emr = Aws.of_deployment(deployment).client("emr")
    message = how_to_connect(messages.words_of(deployment), planned, cluster_id, emr, deployment.region)
    for line in message.text.splitlines():
        log.info("%s", line)
    messages.send(lambda _: message)
    return message.text
