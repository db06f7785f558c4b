"""Prints what `template.yaml` creates in an AWS account, and the purpose of each permission.

    python infra/plan.py                # tables for a terminal
    python infra/plan.py --markdown     # the permissions, as the table of docs/aws.md

The texts are the `Metadata` of the template's resources. The command sends no request to AWS.
"""

from __future__ import annotations

import functools
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from image_features import cli

TEMPLATE = Path(__file__).with_name("template.yaml")


class Permission(NamedTuple):
    """One statement of a policy."""

    resource: str  # logical id of the resource with the policy
    statement: dict[str, Any]

    @property
    def actions(self) -> list[str]:
        action = self.statement["Action"]
        return [action] if isinstance(action, str) else list(action)


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as the long ones: ``!Sub x`` as ``{"Fn::Sub": "x"}``."""


def _short_form(loader: _Loader, name: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    if name in ("Ref", "Condition"):
        return {name: value}
    if name == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{name}": value}


_Loader.add_multi_constructor("!", _short_form)


def load(path: Path = TEMPLATE) -> dict[str, Any]:
    """The template as plain values."""
    return _Loader(path.read_text()).get_single_data()


def permissions(template: dict[str, Any]) -> Iterator[Permission]:
    """Every statement that allows or denies something, without the trust policies of the roles."""
    for name, resource in template["Resources"].items():
        properties = resource.get("Properties", {})
        documents = [properties["PolicyDocument"]] if "PolicyDocument" in properties else []
        for policy in properties.get("Policies", []):
            # !If [condition, policy, !Ref AWS::NoValue]
            documents.append(policy.get("Fn::If", [None, policy])[1]["PolicyDocument"])
        for document in documents:
            for statement in document["Statement"]:
                yield Permission(name, statement)


def table(rows: Sequence[tuple[str, ...]], width: int) -> str:
    """Text with columns as wide as their longest cell; the last column is wrapped."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    lines = []
    for *cells, last in rows:
        start = "".join(f"{cell:{size}}  " for cell, size in zip(cells, widths, strict=True))
        wrapped = textwrap.wrap(last, max(width - indent, 40))
        lines.append(f"{start}{wrapped[0]}")
        lines += [" " * indent + line for line in wrapped[1:]]
    return "\n".join(lines)


def contents(template: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The template's parameters, resources and permissions, each with its purpose."""
    resources = template["Resources"]
    return {
        "parameters": [
            {"name": name, "default": str(parameter.get("Default", "")), "for": parameter["Description"]}
            for name, parameter in template["Parameters"].items()
        ],
        "resources": [
            {
                "name": name,
                "type": resource["Type"],
                "if": resource.get("Condition"),
                "for": resource["Metadata"]["For"],
            }
            for name, resource in resources.items()
        ],
        "permissions": [
            {
                "resource": permission.resource,
                "effect": permission.statement["Effect"],
                "sid": permission.statement["Sid"],
                "actions": permission.actions,
                "for": purpose,
            }
            for permission, purpose in explained(template)
        ],
    }


def plan(template: dict[str, Any], width: int = 110) -> str:
    """The contents as text."""
    content = contents(template)
    parameters = [(item["name"], item["default"] or "-", item["for"]) for item in content["parameters"]]
    resources = [
        (
            item["name"],
            item["type"].removeprefix("AWS::"),
            item["for"] + (f" (if {item['if']})" if item["if"] else ""),
        )
        for item in content["resources"]
    ]
    statements = [
        (item["resource"], item["effect"], item["sid"], f"{item['for']}: {', '.join(item['actions'])}")
        for item in content["permissions"]
    ]
    parts = [
        textwrap.fill(template["Description"], width),
        f"Its {len(parameters)} parameters, with their defaults:\n{table(parameters, width)}",
        f"It creates {len(resources)} resources:\n{table(resources, width)}",
        f"Their policies have {len(statements)} statements:\n{table(statements, width)}",
    ]
    return "\n\n".join(parts)


def explained(template: dict[str, Any]) -> Iterator[tuple[Permission, str]]:
    """Every permission with its purpose."""
    for permission in permissions(template):
        purposes = template["Resources"][permission.resource]["Metadata"]["Permissions"]
        yield permission, purposes[permission.statement["Sid"]]


def markdown(template: dict[str, Any]) -> str:
    """The allowed actions and their purposes, as a Markdown table."""
    rows = ["| of | allows | for |", "|---|---|---|"]
    for permission, purpose in explained(template):
        if permission.statement["Effect"] == "Allow":
            actions = ", ".join(f"`{action}`" for action in permission.actions)
            rows.append(f"| {permission.resource} | {actions} | {purpose} |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--markdown", action="store_true", help="the permissions, for docs/aws.md")
    args = parser.parse_args(argv)
    template = load()
    width = shutil.get_terminal_size((110, 24)).columns
    shown = markdown if args.markdown else functools.partial(plan, width=width)
    return cli.main(lambda: contents(template), args, show=lambda _: print(shown(template)))


if __name__ == "__main__":
    sys.exit(main())
