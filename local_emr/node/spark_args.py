"""Reads the arguments of ``spark-submit``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Options that become a setting, so that the arguments win over the defaults as in spark-submit.
AS_CONF = {
    "--driver-memory": "spark.driver.memory",
    "--driver-cores": "spark.driver.cores",
    "--executor-memory": "spark.executor.memory",
    "--executor-cores": "spark.executor.cores",
    "--num-executors": "spark.executor.instances",
    "--total-executor-cores": "spark.cores.max",
    "--queue": "spark.yarn.queue",
    "--master": "spark.master",
    "--deploy-mode": "spark.submit.deployMode",
    "--packages": "spark.jars.packages",
    "--exclude-packages": "spark.jars.excludes",
    "--repositories": "spark.jars.repositories",
}
LISTS = ("--py-files", "--files", "--archives", "--jars")
PASSED_ON = ("--name", "--class", "--driver-java-options")
DROPPED = ("--principal", "--keytab", "--proxy-user", "--driver-library-path", "--driver-class-path")
FLAGS = ("--verbose", "-v", "--supervise")


class BadArgumentsError(Exception):
    """The arguments are not ones that spark-submit takes; the message says which."""


@dataclass
class Submit:
    """``files`` holds the comma separated lists by option name."""

    application: str
    arguments: list[str]
    conf: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse(args: Sequence[str]) -> Submit:
    """Arguments after ``spark-submit``. Raises BadArgumentsError."""
    submit = Submit("", [])
    rest = list(args)
    while rest and rest[0].startswith("-"):
        option, mark, value = rest.pop(0).partition("=")
        if option in FLAGS:
            continue
        if option not in ("--conf", "-c", *AS_CONF, *LISTS, *PASSED_ON, *DROPPED):
            raise BadArgumentsError(f"spark-submit: unrecognized option {option}")
        if not mark or option in ("-c",):
            if not rest:
                raise BadArgumentsError(f"spark-submit: missing value of {option}")
            value = rest.pop(0)
        _take(submit, option, value)
    if not rest:
        raise BadArgumentsError("spark-submit: missing application resource")
    submit.application, submit.arguments = rest[0], rest[1:]
    return submit


def _take(submit: Submit, option: str, value: str) -> None:
    if option in ("--conf", "-c"):
        name, mark, setting = value.partition("=")
        if not mark:
            raise BadArgumentsError(f"spark-submit: --conf wants name=value, not {value!r}")
        submit.conf[name.strip()] = setting
    elif option in AS_CONF:
        submit.conf[AS_CONF[option]] = value
    elif option in LISTS:
        submit.files[option] = [item for item in value.split(",") if item]
    elif option in DROPPED:
        submit.notes.append(f"left out {option} {value}: not used here")
    else:
        submit.options += [option, value]
