"""The node of a cluster, which is a directory: its file tree, its commands, its environment.

A cluster has one node. Scripts that write to ``"${EMR_NODE_ROOT:-}/opt/..."`` work on EMR, which does not set
the variable, and here.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from local_emr.settings import Settings

BASE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
INHERITED = {
    *("LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}
INHERITED_PREFIXES = ("PIP_", "UV_")

SUDO = """#!/bin/bash
# Runs its arguments as the current user: no script gets more rights than the server has.
while [ $# -gt 0 ]; do
  case "$1" in
    -u|-g|-U|-C|-p|-h) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *=*) export "${1?}"; shift ;;
    *) break ;;
  esac
done
[ $# -eq 0 ] || exec "$@"
"""


class Node:
    """``root`` stands for the directory ``/`` of EMR's node."""

    def __init__(
        self, settings: Settings, root: Path, cluster_id: str, region: str, instance_id: str
    ) -> None:
        self.settings = settings
        self.root = root
        self.cluster_id = cluster_id
        self.region = region
        self.instance_id = instance_id

    def path(self, absolute: str) -> Path:
        """The path on this machine of an absolute path of the node."""
        return self.root / absolute.lstrip("/")

    def resolve(self, value: str) -> str:
        """``value`` below ``root`` if it is an absolute path that exists there, else ``value`` itself."""
        inside = self.path(value)
        return str(inside) if value.startswith("/") and os.path.lexists(inside) else value

    def owns(self, path: Path) -> bool:
        """Whether ``path`` is below ``root`` after its links are followed."""
        return path.resolve().is_relative_to(self.root.resolve())

    def prepare(self) -> None:
        """Creates the node's folders, commands and information files. Raises OSError."""
        for name in ("home/hadoop", "opt", "tmp", "usr/bin", "usr/local/bin", "var/log", "etc/spark/conf"):
            self.path(name).mkdir(parents=True, exist_ok=True)
        python = shlex.quote(self.settings.python)
        tool = f"{shlex.quote(sys.executable)} -I {shlex.quote(str(Path(__file__).with_name('aws_cli.py')))}"
        self._command("sudo", SUDO)
        for name in ("python3", "python3.11"):
            self._command(name, f'#!/bin/bash\nexec {python} "$@"\n')
        self._command("aws", f'#!/bin/bash\nexec {tool} "$@"\n')
        info = {
            "job-flow.json": {"jobFlowId": self.cluster_id, "masterInstanceId": self.instance_id},
            "instance.json": {
                "isMaster": True,
                "isRunningNameNode": True,
                "instanceGroupId": "",
                "clusterId": self.cluster_id,
            },
        }
        for folder in ("mnt/var/lib/info", "emr/instance-controller/lib/info"):
            self.path(folder).mkdir(parents=True, exist_ok=True)
            for name, content in info.items():
                (self.path(folder) / name).write_text(json.dumps(content, indent=1))

    def _command(self, name: str, text: str) -> None:
        target = self.path("usr/bin") / name
        target.write_text(text)
        target.chmod(0o755)

    def environment(self) -> dict[str, str]:
        """The environment of a bootstrap action or a step, with the URL of the local AWS.

        Of the server's variables it has those in INHERITED only.
        """
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name in INHERITED or name.startswith(INHERITED_PREFIXES)
        }
        java = self.settings.java_home
        env = {
            **inherited,
            "PATH": f"{self.path('usr/bin')}:{self.path('usr/local/bin')}:{java}/bin:{BASE_PATH}",
            "HOME": str(self.path("home/hadoop")),
            "USER": "hadoop",
            "LOGNAME": "hadoop",
            # In a container the uid may have no name, and Spark needs one.
            "HADOOP_USER_NAME": "hadoop",
            "EMR_NODE_ROOT": str(self.root),
            "EMR_CLUSTER_ID": self.cluster_id,
            "JAVA_HOME": str(java),
            "AWS_ENDPOINT_URL": self.settings.endpoint,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ALLOW_HTTP": "true",
            "NO_PROXY": "127.0.0.1,localhost," + inherited.get("NO_PROXY", ""),
            "no_proxy": "127.0.0.1,localhost," + inherited.get("no_proxy", ""),
        }
        env.setdefault("LANG", "C.UTF-8")
        if self.settings.other_s3:
            env["AWS_ENDPOINT_URL_S3"] = self.settings.s3_endpoint
        return env
