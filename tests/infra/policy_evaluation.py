"""A model of IAM: it evaluates identity policies by IAM's documentation.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Request:
    """One request to AWS. ``resource`` is "*" for actions without resources."""

    action: str
    resource: str = "*"
    context: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.action} on {self.resource} with {dict(self.context)}"


def allows(statements: Iterable[Mapping[str, Any]], request: Request) -> bool:
    """Whether some statement allows the request and none denies it."""
    effects = {statement["Effect"] for statement in statements if _applies(statement, request)}
    return effects == {"Allow"}


def _applies(statement: Mapping[str, Any], request: Request) -> bool:
    unknown = set(statement) - {"Sid", "Effect", "Action", "Resource", "Condition"}
    if unknown:
        raise NotImplementedError(f"statement element {unknown}")
    return (
        any(_like(pattern.lower(), request.action.lower()) for pattern in _list(statement["Action"]))
        and any(_like(pattern, request.resource) for pattern in _list(statement["Resource"]))
        and all(
            _holds(operator, key, _list(values), request.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _holds(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    actual = {name.lower(): value for name, value in context.items()}.get(key.lower())
    if operator == "StringEquals":
        return actual is not None and actual in values
    if operator == "StringLike":
        return actual is not None and any(_like(pattern, actual) for pattern in values)
    raise NotImplementedError(f"condition operator {operator}")


def _like(pattern: str, text: str) -> bool:
    parts = ("." if sign == "?" else ".*" if sign == "*" else re.escape(sign) for sign in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def reference() -> dict[str, Any]:
    """AWS' Service Authorization Reference, from cfn-lint: service, then lower-case action."""
    text = files("cfnlint.data.AdditionalSpecs").joinpath("Policies.json").read_text()
    return json.loads(text)


def resource_types(action: str) -> list[str]:
    """The resource types that an action can be limited to. Raises KeyError for an unknown action."""
    service, _, name = action.partition(":")
    return reference_of(service)[name.lower()].get("Resources", [])


_services: dict[str, dict[str, Any]] = {}


def reference_of(service: str) -> dict[str, Any]:
    if not _services:
        _services.update({name: service["Actions"] for name, service in reference().items()})
    return _services[service]
