"""Why a cluster or a step failed: state, reason, advice, and where its log is."""

from __future__ import annotations

import gzip
import re
from collections.abc import Mapping
from typing import Any

from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.clusters import Cluster
from fruit_pipeline.aws.session import Aws
from image_features.arguments import ERROR

_LAST_LINES = 20

# How a step's controller log and the log of command-runner report an exit code.
_EXIT_CODE = re.compile(r"(?:ended with exit code|exiting with ret) '?(\d+)")
_SIGKILLED = 137  # 128 and the signal's number, as in a shell
_KILLED = (
    "its process was killed (SIGKILL): by hand, or because the primary node ran out of memory. Finished "
    "work is kept: trigger again with this run's run_key; if it happens again, on a shape with a larger "
    "primary node"
)

_CAPACITY = "try again later, or with a shape of other instance types, more of them or more subnets"
# https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStateChangeReason.html
_ADVICE = {
    "INTERNAL_ERROR": f"EMR could not create or keep the cluster: if it had no capacity, {_CAPACITY}; "
    "if it was a fault of AWS, try again",
    "VALIDATION_ERROR": "EMR cannot create this cluster: fix what the reason names, such as a quota, a "
    f"subnet or a role; if it had no capacity, {_CAPACITY}",
    "INSTANCE_FAILURE": "the cluster lost nodes that it needs: try again; if EC2 took Spot nodes back, "
    "with a shape that has them on demand",
    "INSTANCE_FLEET_TIMEOUT": "EC2 had no capacity, Spot or on demand, for a fleet within its timeout: "
    f"{_CAPACITY}",
    "BOOTSTRAP_FAILURE": "a node's Python environment could not be installed: its log, below node/ in the "
    "cluster's logs, says why",
    "USER_REQUEST": "somebody or the reaper terminated it: nothing needs to be fixed",
    "STEP_FAILURE": "a step failed and ended the cluster: its log, below steps/ in the cluster's logs, says "
    "why",
    "ALL_STEPS_COMPLETED": "it had no step for as long as its idle timeout: was Airflow delayed between "
    "two tasks?",
}


def explain_cluster(cluster: Cluster) -> str:
    """State, reason, advice and log folder of a cluster that ended early, in one line."""
    text = f"cluster {cluster.id} is {cluster.state}"
    text += f" ({cluster.reason_code or 'no code'}: {cluster.reason_message or 'no message'})"
    for code, message in cluster.error_details:
        text += f"; {code or 'error'}: {message or 'no message'}"
    if advice := _ADVICE.get(cluster.reason_code):
        text += f"; {advice}"
    if cluster.log_uri:
        text += f"; its logs: {cluster.log_uri}/{cluster.id}/"
    return f"{text}. Clear the task that created the cluster, and those after it, to resume on a new one"


def explain_step(aws: Aws, cluster_id: str, step_id: str) -> str:
    """State, reason and log of a failed step, and the last lines of the log if it is in S3 already.

    EMR ships logs some minutes late.
    """
    emr = aws.client("emr")
    step = emr.describe_step(ClusterId=cluster_id, StepId=step_id)["Step"]
    cluster = clusters.describe(emr, cluster_id)
    log, lines = _log_of(cluster, step), ""
    if log:
        log, lines = _most_telling(aws, log)
    state = step["Status"]["State"]
    text = f"step {step_id} ({step['Name']}) is {state}"
    if state == "CANCELLED" and not cluster.ending:
        text += ": somebody cancelled it; nothing needs to be fixed, and what it finished is kept"
    elif why := _job_error(lines) or _killed(aws, log, lines) or _emr_message(step):
        text += f": {why}"
    if cluster.ending:
        text += f"; {explain_cluster(cluster)}"
    if not log:
        return text
    return f"{text}; log: {log}" + (f"\n{lines}" if lines else " (not shipped yet)")


def log_of_step(cluster: Cluster, step: Mapping[str, Any]) -> str:
    """Where a step's log is, or will be once EMR has shipped it; ``step`` is from DescribeStep."""
    return _log_of(cluster, step) or "in the EMR console"


def last_lines(aws: Aws, log: str) -> str:
    """The last 20 lines of a gzipped log without blank and INFO lines; empty if it cannot be read."""
    # Spark logs a lot at INFO while it shuts down.
    lines = [line for line in _text(aws, log).splitlines() if line.strip() and " INFO " not in line]
    return "\n".join(lines[-_LAST_LINES:])


def _log_of(cluster: Cluster, step: Mapping[str, Any]) -> str | None:
    file = str(step["Status"].get("FailureDetails", {}).get("LogFile", ""))
    if file.startswith("s3"):
        return file
    return f"{cluster.log_uri}/{cluster.id}/steps/{step['Id']}/stderr.gz" if cluster.log_uri else None


def _most_telling(aws: Aws, log: str) -> tuple[str, str]:
    """The log to show, and its last lines: stdout if our job reports its error there, else ``log``.

    spark-submit writes to its stdout what a Python driver writes to stderr; EMR names stderr only.
    """
    stdout = f"{log.rpartition('/')[0]}/stdout.gz"
    lines = last_lines(aws, stdout)
    return (stdout, lines) if _job_error(lines) else (log, last_lines(aws, log))


def _job_error(lines: str) -> str:
    """The error line that our jobs end with. EMR's own message misses it: it looks for an exception."""
    errors = [line for line in lines.splitlines() if line.startswith(ERROR)]
    return errors[-1].removeprefix(ERROR) if errors else ""


def _emr_message(step: Mapping[str, Any]) -> str:
    details = step["Status"].get("FailureDetails", {})
    return str(details.get("Message") or details.get("Reason") or "")


def _killed(aws: Aws, log: str | None, lines: str) -> str:
    """What to say of a step whose exit code shows SIGKILL; "" for any other, or without a log."""
    if not log:
        return ""
    controller = _text(aws, f"{log.rpartition('/')[0]}/controller.gz")
    codes = _EXIT_CODE.findall(f"{lines}\n{controller}")
    return _KILLED if codes and int(codes[-1]) == _SIGKILLED else ""


def _text(aws: Aws, log: str) -> str:
    """A gzipped log; empty if it cannot be read."""
    bucket, _, key = log.partition("://")[2].partition("/")
    try:
        body = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
        return gzip.decompress(body).decode(errors="replace")
    except Exception:  # an unreadable log must not hide the failure itself
        return ""
