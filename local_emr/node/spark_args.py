"""The arguments of ``spark-submit``, parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# Options that become a setting: like --conf they win over spark-defaults, as in spark-submit.
CONF_OPTIONS = {
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
LIST_OPTIONS = ("--py-files", "--files", "--archives", "--jars")
PASSED_OPTIONS = ("--name", "--class", "--driver-java-options")
IGNORED_OPTIONS = ("--principal", "--keytab", "--proxy-user", "--driver-library-path", "--driver-class-path")
FLAGS = ("--verbose", "-v", "--supervise")


class BadArgumentsError(Exception):
    """spark-submit does not accept the arguments; the message names the wrong one."""


@dataclass
class SubmitArguments:
    """``files`` are the comma separated lists by option, ``options`` those passed on to spark-submit.

    ``notes`` name the options that are left out.
    """

    application: str
    arguments: list[str]
    conf: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[str]] = field(default_factory=dict)
    options: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse(args: Sequence[str]) -> SubmitArguments:
    """Parses the arguments after ``spark-submit``. Raises BadArgumentsError."""
    submit = SubmitArguments("", [])
    rest = list(args)
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option in FLAGS:
            continue
        if option not in ("--conf", "-c", *CONF_OPTIONS, *LIST_OPTIONS, *PASSED_OPTIONS, *IGNORED_OPTIONS):
            raise BadArgumentsError(f"spark-submit: unrecognized option {option}")
        if not equals or option in ("-c",):
            if not rest:
                raise BadArgumentsError(f"spark-submit: missing value of {option}")
            value = rest.pop(0)
        _store(submit, option, value)
    if not rest:
        raise BadArgumentsError("spark-submit: missing application resource")
    submit.application, submit.arguments = rest[0], rest[1:]
    return submit


def _store(submit: SubmitArguments, option: str, value: str) -> None:
    if option in ("--conf", "-c"):
        name, equals, setting = value.partition("=")
        if not equals:
            raise BadArgumentsError(f"spark-submit: --conf needs name=value, not {value!r}")
        submit.conf[name.strip()] = setting
    elif option in CONF_OPTIONS:
        submit.conf[CONF_OPTIONS[option]] = value
    elif option in LIST_OPTIONS:
        submit.files[option] = [item for item in value.split(",") if item]
    elif option in IGNORED_OPTIONS:
        submit.notes.append(f"left out {option} {value}: not used here")
    else:
        submit.options += [option, value]
