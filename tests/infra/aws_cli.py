"""A checker of AWS CLI commands against the services' models, offline.

It supports the syntax that the documentation uses: options, lists, and the short form ``Key=a,Value=b``.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import botocore.session
from botocore import xform_name
from botocore.model import ListShape, Shape, StructureShape
from botocore.validate import ParamValidator

# https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-options.html
GLOBAL = {"--query", "--output", "--region"}
_OUTPUTS = ("json", "text", "table", "yaml")


def aws_of(command: str) -> str | None:
    """The ``aws`` command in a line, also in ``X=$(aws ...)`` and before ``> file`` or ``>> file``."""
    inner = re.search(r"\$\((aws .*)\)$", command)
    text = inner[1] if inner else command
    return re.sub(r"\s+>>?\s*\S+$", "", text) if text.startswith("aws ") else None


def check(command: str) -> None:
    """Raise ValueError for the part of an ``aws`` command that the service's model does not have."""
    words = shlex.split(command)
    if len(words) < 3 or words[0] != "aws":
        raise ValueError(f"no aws command: {command}")
    service, operation = words[1:3]
    session = botocore.session.get_session()
    if service not in session.get_available_services():
        raise ValueError(f"no service {service}")
    if operation == "wait":
        waiters = session.get_waiter_model(service)
        names = {xform_name(name, "-"): name for name in waiters.waiter_names}
        if words[3] not in names:
            raise ValueError(f"aws {service} wait knows no {words[3]}")
        name, rest = waiters.get_waiter(names[words[3]]).operation, words[4:]
    else:
        names = {xform_name(name, "-"): name for name in session.get_service_model(service).operation_names}
        if operation not in names:
            raise ValueError(f"aws {service} knows no {operation}")
        name, rest = names[operation], words[3:]
    shape = session.get_service_model(service).operation_model(name).input_shape
    report = ParamValidator().validate(_parameters(rest, shape), shape)
    if report.has_errors():
        raise ValueError(f"{command}: {report.generate_report()}")


def _parameters(words: list[str], shape: StructureShape) -> dict[str, Any]:
    members = {f"--{xform_name(name, '-')}": (name, member) for name, member in shape.members.items()}
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = []
        elif not options:
            raise ValueError(f"{word!r} belongs to no option")
        else:
            options[next(reversed(options))].append(word)
    parameters = {}
    for option, values in options.items():
        if option in GLOBAL:
            if option == "--output" and values[0] not in _OUTPUTS:
                raise ValueError(f"--output {values[0]}")
            continue
        if option.startswith("--no-") and f"--{option.removeprefix('--no-')}" in members:
            option = f"--{option.removeprefix('--no-')}"
        if option not in members:
            raise ValueError(f"no option {option}")
        name, member = members[option]
        parameters[name] = _value(values, member)
    return parameters


def _value(values: list[str], shape: Shape) -> Any:
    if isinstance(shape, ListShape):
        return [_one(value, shape.member) for value in values]
    if shape.type_name == "boolean":
        return True
    (value,) = values
    return _one(value, shape)


def _one(text: str, shape: Shape) -> Any:
    if isinstance(shape, StructureShape):
        pairs = (part.partition("=") for part in re.split(r",(?=[A-Za-z]+=)", text))
        return {
            key: _value(value.split(","), shape.members[key])
            if key in shape.members and isinstance(shape.members[key], ListShape)
            else value
            for key, _, value in pairs
        }
    if shape.type_name in ("integer", "long"):
        return int(text)
    known = getattr(shape, "enum", [])
    if known and text not in known:
        raise ValueError(f"{text!r} is none of {', '.join(known)}")
    return text
