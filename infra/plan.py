"""Says what `template.yaml` makes in an AWS account, and what each permission in it is for.

    python infra/plan.py
    python infra/plan.py --markdown

print it as tables for a terminal, or the permissions as the table of docs/aws.md. The words are the
template's own: `Metadata` of each resource. Nothing is asked of AWS.
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

from fruit_pipeline.commands import cli as commands_cli
from image_features import cli

TEMPLATE = Path(__file__).with_name("template.yaml")


class Permission(NamedTuple):
    """One statement of a policy."""

    resource: str  # logical id of what holds the policy
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
    """Every statement that allows or denies something; not who may take a role."""
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
    """Columns as wide as their longest cell; the last one is wrapped."""
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
    """What the template asks for, makes and allows, each with what it is for."""
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
                "for": words,
            }
            for permission, words in explained(template)
        ],
    }


def plan(template: dict[str, Any], width: int = 110) -> str:
    """The contents as text."""
    found = contents(template)
    asked = [(item["name"], item["default"] or "-", item["for"]) for item in found["parameters"]]
    made = [
        (
            item["name"],
            item["type"].removeprefix("AWS::"),
            item["for"] + (f" (if {item['if']})" if item["if"] else ""),
        )
        for item in found["resources"]
    ]
    allowed = [
        (item["resource"], item["effect"], item["sid"], f"{item['for']}: {', '.join(item['actions'])}")
        for item in found["permissions"]
    ]
    parts = [
        textwrap.fill(template["Description"], width),
        f"It asks for {len(asked)} values (and their default):\n{table(asked, width)}",
        f"It makes {len(made)} resources:\n{table(made, width)}",
        f"Their policies have {len(allowed)} statements, each with what it is for:\n{table(allowed, width)}",
    ]
    return "\n\n".join(parts)


def explained(template: dict[str, Any]) -> Iterator[tuple[Permission, str]]:
    """Every permission, with what it is for."""
    for permission in permissions(template):
        words = template["Resources"][permission.resource]["Metadata"]["Permissions"]
        yield permission, words[permission.statement["Sid"]]


def markdown(template: dict[str, Any]) -> str:
    """What is allowed and what for, as a table of Markdown."""
    rows = ["| of | allows | for |", "|---|---|---|"]
    for permission, words in explained(template):
        if permission.statement["Effect"] == "Allow":
            actions = ", ".join(f"`{action}`" for action in permission.actions)
            rows.append(f"| {permission.resource} | {actions} | {words} |")
    return "\n".join(rows)


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--markdown", action="store_true", help="the permissions, for docs/aws.md")
    args = parser.parse_args(argv)
    template = load()
    width = shutil.get_terminal_size((110, 24)).columns
    shown = markdown if args.markdown else functools.partial(plan, width=width)
    return commands_cli.run(lambda: contents(template), args, show=lambda _: print(shown(template)))


if __name__ == "__main__":
    sys.exit(main())
