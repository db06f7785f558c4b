"""Every request that the DAG can send is one that AWS takes, as far as that is known without an account.

Three readers judge the requests: botocore's model of the service with the lengths and patterns that
boto3 itself does not check, the local EMR's own reading of EMR's documented limits, and
`emr_limits`, which refuses before anything is sent.
"""

from __future__ import annotations

import ast
import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator
from hypothesis import HealthCheck, given, reject
from hypothesis import settings as drawing
from hypothesis import strategies as st

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.aws.clusters import DAG_RUN_TAG
from fruit_pipeline.cluster import job_flow, shapes, steps
from fruit_pipeline.dag.form import form
from fruit_pipeline.run.request import RunRequest, from_params
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.storage import join_uri
from local_emr.emr import requests as local_emr

REPO = Path(__file__).resolve().parents[3]
SHAPES = {name: shapes.load_shape(REPO, name) for name in shapes.shape_names(REPO)}

# The same draws each time: what fails, fails everywhere.
often = drawing(
    max_examples=160, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


# What is drawn


def drawn(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the trigger form would send for a Param of this schema."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kinds = schema["type"]
    if isinstance(kinds, list):
        return st.one_of(*(drawn({**schema, "type": kind}) for kind in kinds))
    low, high = schema.get("minimum"), schema.get("maximum")
    if kinds == "integer":
        return st.integers(low, high)
    if kinds == "number":
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        return st.floats(
            above if above is not None else low,
            below if below is not None else high,
            exclude_min=above is not None,
            exclude_max=below is not None,
            allow_nan=False,
            allow_infinity=False,
        )
    if kinds == "string":
        if "pattern" in schema:
            return st.from_regex(schema["pattern"].removeprefix("^").removesuffix("$"), fullmatch=True)
        return st.text(min_size=schema.get("minLength", 0), max_size=300)
    if kinds == "array":
        return st.lists(drawn(schema["items"]), max_size=4)
    return {"null": st.none(), "boolean": st.booleans()}[kinds]


BUCKETS = st.from_regex(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", fullmatch=True)
RUN_IDS = st.one_of(
    st.text(min_size=1, max_size=300),
    st.datetimes().map(lambda moment: f"manual__{moment.isoformat()}+00:00"),
)
PARAMS = {name: drawn(param.schema) for name, param in form(shapes.descriptions(REPO)).items()}
PARAMS["bucket"] = BUCKETS
PARAMS["source"] = st.text(min_size=1).filter(str.strip)
PARAMS["reuse"] = st.one_of(st.none(), st.just("earlier-run"), BUCKETS.map(lambda b: f"s3://{b}/runs/é x"))

SUBNET = st.from_regex(r"subnet-[0-9a-f]{8,17}", fullmatch=True)
DEPLOYMENTS = st.fixed_dictionaries(
    {"FRUITS_HOME": st.just(str(REPO)), "FRUITS_REGION": st.sampled_from(settings.EU_REGIONS)},
    optional={
        "FRUITS_SUBNET_ID": st.lists(SUBNET, max_size=6).map(", ".join),
        "FRUITS_OWNER": st.from_regex(r"[\w .:/=+\-@]{0,256}", fullmatch=True),
        "FRUITS_SECURITY_CONFIGURATION": st.sampled_from(["imdsv2", "EMR security"]),
        "FRUITS_EMR_SERVICE_ROLE": st.sampled_from(["R", "arn:aws:iam::123456789012:role/EMR"]),
    },
)


@st.composite
def runs(draw: st.DrawFn) -> RunRequest:
    """Runs as the first task makes them of what the form sends."""
    values = draw(st.fixed_dictionaries(PARAMS))
    try:
        return from_params(values, draw(RUN_IDS), None)
    except JobError:
        reject()


@st.composite
def deployments(draw: st.DrawFn) -> settings.Settings:
    try:
        return settings.load(draw(DEPLOYMENTS))
    except JobError:
        reject()


def requests_of(
    run: RunRequest, deployment: settings.Settings, shape: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """``RunJobFlow`` and the two ``AddJobFlowSteps`` of a run, as its plan makes them."""
    layout, model = run.layout, f"s3://{run.bucket}/models/{'f' * 64}"
    if run.components is None and run.variance is None:
        reject()  # refused by the first task
    flow = job_flow.build_request(
        deployment,
        SHAPES[shape],
        run.run_key,
        layout.logs,
        join_uri(layout.code, "install.sh"),
        f"s3://{run.bucket}/wheelhouse/{'f' * 64}",
        more_tags={DAG_RUN_TAG: run.dag_run},
    )
    extraction = steps.extraction_step(layout, model, run.max_pixels, run.reuse, run.max_reject_rate)
    reduction = steps.reduction_step(layout, model, run.components, run.variance)
    return flow, [{"JobFlowId": "j-2AXXXXXXGAPLF", "Steps": [step]} for step in (extraction, reduction)]


# Who judges


@cache
def model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


# A Java pattern: its last range is the characters above U+FFFF, which Python writes otherwise.
ABOVE = (r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")


def unchecked_faults(shape: Any, value: Any, where: str = "") -> Iterator[str]:
    """What the model forbids and boto3 sends all the same: lengths, patterns, unknown words of an enum."""
    if shape.type_name == "structure":
        for name, item in value.items():
            yield from unchecked_faults(shape.members[name], item, f"{where}.{name}")
    elif shape.type_name == "list":
        for item in value:
            yield from unchecked_faults(shape.member, item, f"{where}[]")
    elif shape.type_name == "map":
        for key, item in value.items():
            yield from unchecked_faults(shape.key, key, f"{where} key")
            yield from unchecked_faults(shape.value, item, f"{where}.{key}")
    elif shape.type_name == "string":
        if len(value) > shape.metadata.get("max", len(value)):
            yield f"{where} has {len(value)} characters"
        pattern = shape.metadata.get("pattern", ".*").replace(*ABOVE)
        if not re.fullmatch(pattern, value, re.DOTALL):
            yield f"{where} is {value!r}, not {pattern}"
        if value not in (getattr(shape, "enum", None) or [value]):
            yield f"{where} is {value!r}"


def faults(operation: str, request: dict[str, Any]) -> list[str]:
    members = model("emr").operation_model(operation).input_shape
    refused = ParamValidator().validate(request, members).generate_report()  # as boto3 itself asks
    return [refused] if refused else list(unchecked_faults(members, request))


# The contract


@given(run=runs(), deployment=deployments(), shape=st.sampled_from(sorted(SHAPES)))
@often
def test_emr_takes_the_cluster_and_the_steps_of_any_run(
    run: RunRequest, deployment: settings.Settings, shape: str
) -> None:
    flow, added = requests_of(run, deployment, shape)
    assert faults("RunJobFlow", flow) == []
    for request in added:
        assert faults("AddJobFlowSteps", request) == []
    # XCom and the AWS CLI carry them as JSON.
    assert json.loads(json.dumps([flow, added])) == [flow, added]
    # A second reader of EMR's limits; it refuses by raising.
    cluster = local_emr.cluster_from(copy.deepcopy(flow), deployment.region, "123456789012")
    for request in added:
        cluster.steps += local_emr.steps_from(request["Steps"], cluster)
    # What finds the cluster again.
    assert cluster.name == clusters.name_of(run.run_key)
    assert cluster.tags[clusters.RUN_TAG] == run.run_key
    assert cluster.tags[DAG_RUN_TAG] == run.dag_run
    assert cluster.tags[clusters.PROJECT_TAG] == clusters.PROJECT
    assert (cluster.idle_timeout or 0) >= 60
    assert cluster.keep_alive
    assert not cluster.protected


@given(st.text(alphabet="a0-._", min_size=1, max_size=100), st.integers(0, 12_000).map("r".__mul__))
@often
def test_a_step_over_emrs_length_is_refused_before_it_is_sent(run_key: str, reuse: str) -> None:
    layout = RunLayout("s3://b-1/runs/id")
    refusal = ""
    try:
        step = steps.extraction_step(layout, f"s3://b-1/models/{run_key}", 1, f"s3://b-1/{reuse}")
    except JobError as error:
        refusal = str(error)
    if refusal:
        assert "EMR allows 10240" in refusal
        assert len(reuse) > 9_000
    else:
        jar = step["HadoopJarStep"]
        assert len(jar["Jar"]) + sum(map(len, jar["Args"])) <= 10_240


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"Name": "n" * 257}, ".Name has 257 characters"),
        ({"Name": "a\x01b"}, ".Name is 'a\\x01b'"),
        ({"ScaleDownBehavior": "SLOWLY"}, ".ScaleDownBehavior is 'SLOWLY'"),
        ({"Instances": {"InstanceGroups": [{"InstanceRole": "MASTER"}]}}, "Missing required parameter"),
        ({"Colour": "red"}, "Unknown parameter"),
        ({"Tags": [{"Key": "k", "Value": 1}]}, "Invalid type for parameter Tags[0].Value"),
    ],
)
def test_the_judges_see_a_request_that_is_none(change: dict[str, Any], fault: str) -> None:
    good = {"Name": "n", "Instances": {}}
    assert faults("RunJobFlow", good) == []
    assert fault in "\n".join(faults("RunJobFlow", {**good, **change}))


# What the code calls, read from its source

SERVICES = ("ce", "cloudwatch", "ec2", "emr", "iam", "pricing", "s3", "sns", "sts")


def calls(file: Path) -> Iterator[tuple[str, str, list[str | None]]]:
    """Service, operation and keywords of every call of a client in a file.

    A client is a variable with a service's name, or ``client("<service>")``.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, operation = node.func.value, node.func.attr
        if operation == "paginate" and isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
            owner, argument = owner.func.value, owner.args[0]
            if not isinstance(argument, ast.Constant):
                continue  # chosen at run time
            operation = argument.value
        service = service_of(owner)
        if service and operation not in ("get_paginator", "get_waiter"):
            yield service, operation, [keyword.arg for keyword in node.keywords]


def service_of(owner: ast.expr) -> str | None:
    if isinstance(owner, ast.Name):
        return owner.id if owner.id in SERVICES else None
    if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute) and owner.func.attr == "client":
        first = owner.args[0] if owner.args else None
        return first.value if isinstance(first, ast.Constant) else None
    return None


def test_every_call_of_aws_is_an_operation_with_its_own_members() -> None:
    called = set()
    for file in sorted((REPO / "dags").rglob("*.py")):
        for service, operation, keywords in calls(file):
            where = f"{file.name}: {service}.{operation}"
            names = {botocore.xform_name(name): name for name in model(service).operation_names}
            assert operation in names, where
            members = model(service).operation_model(names[operation]).input_shape
            known = set(members.members) if members else set()
            assert set(keywords) - {None} <= known, where
            if None not in keywords:  # no **request, which is checked above
                assert set(members.required_members if members else ()) <= set(keywords), where
            called.add((service, operation))
    assert {
        ("emr", "list_clusters"),
        ("emr", "describe_cluster"),
        ("emr", "list_steps"),
        ("emr", "describe_step"),
        ("emr", "set_termination_protection"),
        ("emr", "terminate_job_flows"),
        ("s3", "head_bucket"),
    } <= called
