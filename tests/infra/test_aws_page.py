"""The commands of docs/aws.md are valid for the AWS CLI, Airflow and make."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from aws_cli import aws_of, check
from template_stack import Stack

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.cluster import shapes
from fruit_pipeline.dag import form as dag_form
from infra import plan
from support.markdown import commands


@pytest.fixture(scope="module")
def text(repo: Path) -> str:
    return (repo / "docs" / "aws.md").read_text()


@pytest.fixture(scope="module")
def ten(text: str) -> list[str]:
    """The commands from an empty account to the first run."""
    block = text.partition("## Ten commands")[2].partition("```\n\n- Other regions")[0]
    return [line for line in commands(f"{block}```\n") if not line.startswith("export ")]


def options(words: list[str]) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            options[word] = []
        elif options:
            options[next(reversed(options))].append(word)
    return options


def only(ten: list[str], start: str) -> dict[str, list[str]]:
    (command,) = [aws for line in ten if (aws := aws_of(line)) and aws.startswith(start)]
    return options(shlex.split(command))


def test_ten_commands_are_ten(ten: list[str]) -> None:
    assert len(ten) == 10


def test_every_aws_command_is_valid_for_its_service(text: str) -> None:
    aws_commands = [aws for line in commands(text) if (aws := aws_of(line))]
    assert len(aws_commands) >= 8
    for command in aws_commands:
        check(command)


def test_the_check_covers_every_aws_command(text: str) -> None:
    lines = commands(text)
    assert [line for line in lines if re.search(r"\baws [a-z]", line) and not aws_of(line)] == []


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("aws fruit list-clusters", "no service fruit"),
        ("aws emr list-fruit", "knows no list-fruit"),
        ("aws emr list-clusters --fruit x", "no option --fruit"),
        ("aws emr list-clusters --output fruit", "--output fruit"),
        ("aws emr describe-cluster", 'Missing required parameter in input: "ClusterId"'),
        (
            "aws cloudformation create-stack --stack-name a --capabilities CAPABILITY_FRUIT",
            "'CAPABILITY_FRUIT'",
        ),
        ("aws ec2 create-tags --resources r --tags Fruit=a", 'Unknown parameter in Tags[0]: "Fruit"'),
        ("aws cloudformation wait fruit --stack-name a", "knows no fruit"),
        ("aws cloudformation wait stack-create-complete --fruit a", "no option --fruit"),
    ],
)
def test_a_wrong_command_is_reported(command: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        check(command)


def test_the_stack_has_the_parameters_of_the_command(
    ten: list[str], template: dict[str, Any], repo: Path
) -> None:
    given = only(ten, "aws cloudformation create-stack")
    assert given["--template-body"] == [f"file://{plan.TEMPLATE.relative_to(repo)}"]
    assert given["--capabilities"] == ["CAPABILITY_NAMED_IAM"]
    pairs = dict(
        word.removeprefix("ParameterKey=").split(",ParameterValue=", 1) for word in given["--parameters"]
    )
    known = template["Parameters"]
    assert set(pairs) <= set(known)
    assert {name for name, parameter in known.items() if "Default" not in parameter} <= set(pairs)
    values = {**pairs, "VpcId": "vpc-1", "BucketName": "b-1", "AlertEmail": "me@example.org"}
    assert Stack(template, values).refused_because() == []
    for name, value in values.items():
        assert re.fullmatch(known[name].get("AllowedPattern", ".*"), value), name


def test_the_stack_has_the_output_of_the_command(ten: list[str], template: dict[str, Any]) -> None:
    (query,) = only(ten, "aws cloudformation describe-stacks")["--query"]
    name = re.search(r"OutputKey=='(\w+)'", query)
    assert name
    assert name[1] in template["Outputs"]


def test_the_tags_are_those_of_the_clusters(ten: list[str]) -> None:
    assert only(ten, "aws ec2 create-tags")["--tags"] == [f"Key={clusters.EMR_TAG},Value=true"]
    activated = only(ten, "aws ce update-cost-allocation-tags-status")
    assert activated["--cost-allocation-tags-status"] == [f"TagKey={clusters.RUN_TAG},Status=Active"]


def test_the_run_has_params_that_the_dag_takes(ten: list[str], repo: Path) -> None:
    (run,) = [line for line in ten if "airflow dags test" in line]
    words = shlex.split(run)
    assert words[3] == "fruit_features"
    conf = json.loads(words[words.index("--conf") + 1])
    form = dag_form.form(shapes.descriptions(repo))
    assert set(conf) <= set(form)
    for name, value in conf.items():
        form[name].value = value
        assert form[name].resolve() == value


def test_the_table_is_that_of_the_plan(text: str, template: dict[str, Any]) -> None:
    between = text.partition("--markdown` prints -->\n")[2].partition("\n<!-- end -->")[0]
    assert between == plan.markdown(template), "run: python infra/plan.py --markdown"


def test_the_cluster_costs_what_the_prices_say(text: str, repo: Path) -> None:
    path = repo / "emr_configs" / "prices" / f"{settings.load({}).region}.json"
    prices = json.loads(path.read_text())["instances"]
    hour = 0.0
    for nodes in shapes.load_shape(repo, "small").nodes:
        (name,) = nodes.weights
        assert nodes.market == "ON_DEMAND"
        hour += nodes.units * (prices[name]["ec2"]["usd"] + prices[name]["emr"]["usd"])
        assert f"{prices[name]['ec2']['usd']} for EC2 and {prices[name]['emr']['usd']} for EMR" in text
    assert f"`small`, an hour | {hour:.2f}:" in text
