"""The plan explains every resource and permission of the template."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra import plan


def test_every_resource_states_its_purpose(template: dict[str, Any]) -> None:
    for name, resource in template["Resources"].items():
        purpose = resource["Metadata"]["For"]
        assert purpose.endswith("."), name
        assert len(purpose) > 20, name


def test_every_statement_states_its_purpose_and_no_purpose_lacks_its_statement(
    template: dict[str, Any],
) -> None:
    stated: dict[str, set[str]] = {}
    for permission in plan.permissions(template):
        stated.setdefault(permission.resource, set()).add(permission.statement["Sid"])
    explained = {
        name: set(resource["Metadata"]["Permissions"])
        for name, resource in template["Resources"].items()
        if "Permissions" in resource["Metadata"]
    }
    assert stated == explained


def test_the_statements_of_a_policy_have_different_names(template: dict[str, Any]) -> None:
    names = [(permission.resource, permission.statement["Sid"]) for permission in plan.permissions(template)]
    assert len(names) == len(set(names)) > 20


@pytest.mark.parametrize("width", [110, 200])
def test_the_plan_names_every_parameter_resource_and_action(template: dict[str, Any], width: int) -> None:
    text = plan.plan(template, width)
    words = text.replace(",", " ").split()
    for name in (*template["Parameters"], *template["Resources"]):
        assert name in words
    for permission in plan.permissions(template):
        assert set(permission.actions) <= set(words)


def test_the_lines_keep_to_the_width(template: dict[str, Any]) -> None:
    assert max(map(len, plan.plan(template, 110).splitlines())) <= 110


def test_the_command_prints_the_plan(repo: Path, template: dict[str, Any]) -> None:
    done = subprocess.run(
        [sys.executable, "infra/plan.py"],
        cwd=repo,
        env={"COLUMNS": "110", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{plan.plan(template, 110)}\n"


def test_the_command_prints_the_contents_as_json(
    template: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(["--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == plan.contents(template)
    assert [item["name"] for item in printed["resources"]] == list(template["Resources"])


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("!Ref A", {"Ref": "A"}),
        ("!GetAtt A.Arn", {"Fn::GetAtt": ["A", "Arn"]}),
        ("!Sub [x, {a: !Ref A}]", {"Fn::Sub": ["x", {"a": {"Ref": "A"}}]}),
        ("!If [C, {a: 1}, !Ref AWS::NoValue]", {"Fn::If": ["C", {"a": 1}, {"Ref": "AWS::NoValue"}]}),
    ],
)
def test_short_forms_are_read_as_the_long_ones(tmp_path: Path, short: str, long: dict[str, Any]) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(f"value: {short}\n")
    assert plan.load(path) == {"value": long}
