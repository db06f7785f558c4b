"""Why a cluster or a step failed, in words that name the log."""

from __future__ import annotations

import gzip
import re
from typing import Any

from image_features.cli import ERROR

_LAST_LINES = 20

# How a step's controller log and command-runner's own say it.
_EXIT_CODE = re.compile(r"(?:ended with exit code|exiting with ret) '?(\d+)")
_SIGKILLED = 137  # 128 and the signal's number, as in a shell
_KILLED = (
    "its process was killed (SIGKILL): by hand, or because the primary node had no memory left. What stands "
    "is kept: trigger again with this run's run_key, when it happens again on a shape with a larger primary"
)

# https://docs.aws.amazon.com/emr/latest/APIReference/API_ClusterStateChangeReason.html
_CAPACITY = "try again later, or with a shape of other instance types, more of them or more subnets"
_ADVICE = {
    "INTERNAL_ERROR": f"EMR could not make or keep the cluster: where it had no capacity, {_CAPACITY}; "
    "where it was a fault of AWS, try again",
    "VALIDATION_ERROR": "EMR cannot make this cluster: mend what the reason names, such as a quota, a "
    f"subnet or a role; where it had no capacity, {_CAPACITY}",
    "INSTANCE_FAILURE": "the cluster lost nodes that it cannot do without: try again; where EC2 took "
    "Spot nodes back, with a shape that has them on demand",
    "INSTANCE_FLEET_TIMEOUT": "EC2 had no capacity, Spot or on demand, for a fleet within its time: "
    f"{_CAPACITY}",
    "BOOTSTRAP_FAILURE": "a node's Python environment was not made: its log, below node/ among the "
    "cluster's logs, says why",
    "USER_REQUEST": "somebody terminated it, or the reaper: nothing is to be mended",
    "STEP_FAILURE": "a step failed and took the cluster along: its log, below steps/ among the "
    "cluster's logs, says why",
    "ALL_STEPS_COMPLETED": "it had no step for as long as its idle timeout: was Airflow held up between "
    "two tasks?",
}


def explain_cluster(emr: Any, cluster_id: str) -> str:
    """One line: state, reason, what to do about it and log folder of a cluster that ended early."""
    cluster = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    reason = cluster["Status"].get("StateChangeReason", {})
    text = f"cluster {cluster_id} is {cluster['Status']['State']}"
    text += f" ({reason.get('Code', 'no code')}: {reason.get('Message', 'no message')})"
    for detail in cluster["Status"].get("ErrorDetails", []):
        text += f"; {detail.get('ErrorCode', 'error')}: {detail.get('ErrorMessage', 'no message')}"
    if advice := _ADVICE.get(reason.get("Code", "")):
        text += f"; {advice}"
    if cluster.get("LogUri"):
        text += f"; its logs: {cluster['LogUri'].rstrip('/')}/{cluster_id}/"
    return f"{text}. Clear the task that created the cluster, and those after it, to resume on a new one"


def explain_step(hook: Any, cluster_id: str, step_id: str) -> str:
    """State, reason and log of a failed step, with the last lines of its log when they are there.

    ``hook`` is an EmrHook; EMR ships logs some minutes late, so the log may be missing yet.
    """
    emr = hook.conn
    step = emr.describe_step(ClusterId=cluster_id, StepId=step_id)["Step"]
    details = step["Status"].get("FailureDetails", {})
    cluster = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    log, lines = _log_of(details, cluster, step_id), ""
    if log:
        log, lines = _most_telling(hook, log)
    text = f"step {step_id} ({step['Name']}) is {step['Status']['State']}"
    ending = cluster["Status"]["State"].startswith("TERMINAT")
    if step["Status"]["State"] == "CANCELLED" and not ending:
        text += ": somebody cancelled it, nothing is to be mended; what it finished is kept"
    elif why := _own_error(lines) or _killed(hook, log, lines) or _emrs_word(details):
        text += f": {why}"
    if ending:
        text += f"; {explain_cluster(emr, cluster_id)}"
    if not log:
        return text
    return f"{text}; log: {log}" + (f"\n{lines}" if lines else " (not shipped yet)")


def _most_telling(hook: Any, log: str) -> tuple[str, str]:
    """The log to read, and its last lines: that with our job's own words, else ``log``.

    spark-submit writes to its stdout what a Python driver writes to stderr, and EMR looks at stderr.
    """
    stdout = f"{log.rpartition('/')[0]}/stdout.gz"
    lines = last_lines(hook, stdout)
    return (stdout, lines) if _own_error(lines) else (log, last_lines(hook, log))


def _own_error(lines: str) -> str:
    """What our jobs say when they give up: EMR's own message looks for an exception, which it is not."""
    errors = [line for line in lines.splitlines() if line.startswith(ERROR)]
    return errors[-1].removeprefix(ERROR) if errors else ""


def _emrs_word(details: dict[str, Any]) -> str:
    return str(details.get("Message") or details.get("Reason") or "")


def _killed(hook: Any, log: str | None, lines: str) -> str:
    """That the step's process was killed, by its exit code; "" when it was not, or nothing tells."""
    if not log:
        return ""
    controller = _text(hook, f"{log.rpartition('/')[0]}/controller.gz")
    codes = _EXIT_CODE.findall(f"{lines}\n{controller}")
    return _KILLED if codes and int(codes[-1]) == _SIGKILLED else ""


def log_of_step(emr: Any, cluster_id: str, step: dict[str, Any]) -> str:
    """Where a step's log lies, or will lie once EMR has shipped it."""
    cluster = emr.describe_cluster(ClusterId=cluster_id)["Cluster"]
    return _log_of(step["Status"].get("FailureDetails", {}), cluster, step["Id"]) or "in the EMR console"


def _log_of(details: dict[str, Any], cluster: dict[str, Any], step_id: str) -> str | None:
    if str(details.get("LogFile", "")).startswith("s3"):
        return str(details["LogFile"])
    if cluster.get("LogUri"):
        return f"{cluster['LogUri'].rstrip('/')}/{cluster['Id']}/steps/{step_id}/stderr.gz"
    return None


def last_lines(hook: Any, log: str) -> str:
    """The last lines of a gzipped log that are no chatter; empty when it cannot be read."""
    # Spark says a lot at INFO on its way down; what failed stands in the other lines.
    lines = [line for line in _text(hook, log).splitlines() if line.strip() and " INFO " not in line]
    return "\n".join(lines[-_LAST_LINES:])


def _text(hook: Any, log: str) -> str:
    """A gzipped log; empty when it cannot be read."""
    bucket, _, key = log.partition("://")[2].partition("/")
    try:
        s3 = hook.get_session().client("s3", endpoint_url=hook.conn_config.endpoint_url)
        return gzip.decompress(s3.get_object(Bucket=bucket, Key=key)["Body"].read()).decode(errors="replace")
    except Exception:  # the log is a help, its absence must not hide the failure itself
        return ""
