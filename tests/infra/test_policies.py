"""The roles allow what the code asks of AWS, and not more.

What the code asks is read from its sources. What AWS' own libraries ask on its behalf stands in
action_tables.py; a test says when that lacks an operator or function that is in use.
"""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from action_tables import COMMANDS, FOR_PEOPLE, OBSTORE, PROVIDER, WHOLE_ACCOUNT, actions_of
from aws_calls import Usage, aws_commands, find, find_in, methods, used_by
from policy_evaluation import Request, allows, resource_types
from template_stack import ACCOUNT, PARAMETERS, REGION, WITH_SOURCE, Stack

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from fruit_pipeline.cluster import job_flow, shapes
from infra import plan

# The requests


@pytest.fixture(scope="session")
def pipeline(repo: Path) -> dict[str, Path]:
    """The modules that run with Airflow's role, by name: those of the DAGs, and the refresh of prices."""
    prices = repo / "dags" / "fruit_pipeline" / "commands" / "prices.py"
    return used_by([*sorted((repo / "dags").glob("*.py")), prices], [repo / "dags", repo / "spark_jobs"])


@pytest.fixture(scope="session")
def usage(pipeline: dict[str, Path]) -> Usage:
    return find(*pipeline.values())


class World:
    """Roles, buckets and clusters of a deployment, and names of others."""

    def __init__(self, template: dict[str, Any], repo: Path) -> None:
        self.stack = Stack(template)
        self.airflow = self.stack.statements("AirflowRole")
        self.nodes = self.stack.statements("NodeRole")
        self.service = self.stack.statements("EmrServiceRole")
        deployment = settings.load({**self.stack.environment(), "FRUITS_HOME": str(repo)})
        uris = [
            f"s3://{deployment.bucket}/{path}" for path in ("runs/r1/logs", "c/install.sh", "wheelhouse/d")
        ]
        self.launches = {
            name: job_flow.build_request(deployment, shapes.load_shape(repo, name), "r1", *uris)
            for name in shapes.shape_names(repo)
        }
        self.tags = {tag["Key"]: tag["Value"] for tag in next(iter(self.launches.values()))["Tags"]}
        self.cluster = f"arn:aws:elasticmapreduce:{REGION}:{ACCOUNT}:cluster/j-1"
        self.tagged = {f"elasticmapreduce:ResourceTag/{key}": value for key, value in self.tags.items()}
        self.region = {"aws:RequestedRegion": REGION}

    def requests(self, action: str) -> list[Request]:
        """The action on every resource for which the code uses it."""
        kinds = [] if action in WHOLE_ACCOUNT else resource_types(action)
        bucket = self.stack.arn("Bucket")
        sources = ["arn:aws:s3:::photos"] if action in ("s3:ListBucket", "s3:GetObject") else []
        if action == "s3:ListMultipartUploadParts" or "object" in kinds:
            keys = ("runs/r1/sample/shard-00000.parquet", "models/d/model.json", "wheelhouse/d/x.whl")
            resources = [f"{bucket}/{key}" for key in keys] + [f"{source}/a/1.jpg" for source in sources]
        elif "bucket" in kinds:
            resources = [bucket, *sources]
        elif "cluster" in kinds:
            return [Request(action, self.cluster, {**self.region, **self.tagged})]
        elif "topic" in kinds:
            resources = [self.stack.value({"Ref": "Topic"})]
        elif "instance-profile" in kinds:
            resources = [self.stack.arn("NodeProfile")]
        elif "role" in kinds:
            resources = [self.stack.arn("EmrServiceRole")]
        elif kinds:
            raise NotImplementedError(f"{action} on {kinds}")
        else:
            resources = ["*"]
        return [Request(action, resource, self.region) for resource in resources]

    def launch(self, request: dict[str, Any]) -> Iterator[Request]:
        """All permissions that AWS checks when ``request`` starts a cluster."""
        tags = {f"elasticmapreduce:RequestTag/{tag['Key']}": tag["Value"] for tag in request["Tags"]}
        yield Request("elasticmapreduce:RunJobFlow", "*", {**self.region, **tags})
        anew = f"arn:aws:elasticmapreduce:{REGION}:{ACCOUNT}:cluster/*"
        yield Request("elasticmapreduce:AddTags", anew, {**self.region, **tags})
        # It is not documented whether AWS checks these with the tags of the new cluster.
        if "AutoTerminationPolicy" in request:
            yield Request("elasticmapreduce:PutAutoTerminationPolicy", anew, self.region)
        if "ManagedScalingPolicy" in request:
            yield Request("elasticmapreduce:PutManagedScalingPolicy", anew, self.region)
        service, nodes = self.stack.arn("EmrServiceRole"), self.stack.arn("NodeRole")
        assert service.endswith(f"/{request['ServiceRole']}")
        assert nodes.endswith(f"/{request['JobFlowRole']}")
        yield Request("iam:PassRole", service, {"iam:PassedToService": "elasticmapreduce.amazonaws.com"})
        yield Request("iam:PassRole", nodes, {"iam:PassedToService": "ec2.amazonaws.com"})
        yield self.service_linked("elasticmapreduce.amazonaws.com", "AWSServiceRoleForEMRCleanup")

    def service_linked(self, service: str, role: str) -> Request:
        arn = f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/{role}"
        return Request("iam:CreateServiceLinkedRole", arn, {"iam:AWSServiceName": service})


@pytest.fixture(scope="session")
def world(template: dict[str, Any], repo: Path) -> World:
    return World(template, repo)


@pytest.fixture(scope="session")
def requests_of_airflow(usage: Usage, world: World) -> list[Request]:
    """All requests of the DAGs."""
    actions = {action for call in usage.calls for action in actions_of(call)}
    actions |= {
        f"elasticmapreduce:{operation}"
        for name in usage.provider
        for operation in PROVIDER[name]
        if operation != "RunJobFlow"
    }
    actions |= {action for function in usage.obstore for action in OBSTORE[function]}
    requests = [request for action in sorted(actions) for request in world.requests(action)]
    return requests + [request for launch in world.launches.values() for request in world.launch(launch)]


@pytest.fixture(scope="session")
def requests_of_nodes(world: World, repo: Path) -> list[Request]:
    """All requests of the jobs, of the bootstrap script, and of EMR when it uploads logs."""
    bucket = world.stack.arn("Bucket")
    read = [f"{bucket}/runs/r1/sample/s", f"{bucket}/models/d/m", f"{bucket}/runs/r1/code/c.zip"]
    places = {
        "s3:ListBucket": [bucket, "arn:aws:s3:::photos"],
        "s3:GetObject": [*read, f"{bucket}/wheelhouse/d/x.whl", "arn:aws:s3:::photos/a/1.jpg"],
    }
    actions = {action for name in find(repo / "spark_jobs").obstore for action in OBSTORE[name]}
    for script in (repo / "bootstrap").glob("*.sh"):
        actions |= {action for command in aws_commands(script.read_text()) for action in COMMANDS[command]}
    # JupyterHub stores its notebooks below jupyter/ in the bucket of its shape.
    own = [f"{bucket}/runs/r1/features/f", f"{bucket}/runs/r1/logs/j-1/steps/s-1/stderr.gz"]
    own.append(f"{bucket}/jupyter/jovyan/notebook.ipynb")
    return [Request(action, place) for action in sorted(actions) for place in places.get(action, own)]


# The requests are complete


def test_every_call_is_understood(usage: Usage) -> None:
    # Only Aws.client itself, which creates all clients, names no service.
    (line,) = usage.unclear
    assert line.startswith("dags/fruit_pipeline/aws/session.py:")
    assert "self.session.client(service" in line


def test_what_no_dag_uses_is_known(repo: Path, pipeline: dict[str, Path]) -> None:
    folder = repo / "dags" / "fruit_pipeline"
    others = {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path
        for path in folder.rglob("*.py")
        if path.stem != "__init__"
    }
    unused = {name: path for name, path in others.items() if name not in pipeline}
    assert {name for name, path in unused.items() if find(path).calls} == FOR_PEOPLE
    assert {"fruit_pipeline.checks.preflight", "fruit_pipeline.aws.session", "image_features.storage"} <= set(
        pipeline
    )


def test_the_calls_that_a_reader_sees_are_found(usage: Usage) -> None:
    operations = {(call.service, call.operation) for call in usage.calls}
    assert {
        ("emr", "DescribeCluster"),
        ("emr", "DescribeStep"),
        ("emr", "ListClusters"),
        ("emr", "ListSteps"),
        ("emr", "SetTerminationProtection"),
        ("emr", "TerminateJobFlows"),
        ("s3", "GetObject"),
        ("s3", "HeadBucket"),
        ("s3", "ListObjectsV2"),
    } <= operations


def test_jobs_call_aws_through_obstore_only(repo: Path) -> None:
    jobs = find(repo / "spark_jobs")
    assert (jobs.calls, jobs.provider, jobs.unclear) == ([], {}, [])


def test_the_table_has_every_class_of_the_provider_in_use(usage: Usage) -> None:
    assert sorted(usage.provider) == sorted(PROVIDER)


def test_the_table_has_every_function_of_obstore_in_use(usage: Usage) -> None:
    places = {"exceptions", "store", "auth"}
    assert sorted(set(usage.obstore) - places) == sorted(OBSTORE)


def test_the_table_has_every_aws_command_of_the_nodes(repo: Path) -> None:
    scripts = [path.read_text() for path in (repo / "bootstrap").glob("*.sh")]
    assert {command for script in scripts for command in aws_commands(script)} == set(COMMANDS)


def test_the_provider_calls_what_the_table_says() -> None:
    from airflow.providers.amazon.aws.hooks import emr as hooks
    from airflow.providers.amazon.aws.links import emr as links
    from airflow.providers.amazon.aws.operators import emr as operators
    from airflow.providers.amazon.aws.sensors import emr as sensors

    # The triggers' waiters are data; they make the same requests as the sensors.
    source = "\n".join(inspect.getsource(module) for module in (hooks, links, operators, sensors))
    called = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    names = {operation: name for name, operation in methods("emr").items()}
    for operation in {operation for operations in PROVIDER.values() for operation in operations}:
        assert names[operation] in called


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("aws.client('s3').head_bucket(Bucket=b)", ["s3 HeadBucket"]),
        ("def f(emr):\n emr.get_paginator('list_clusters')", ["emr ListClusters"]),
        ("x = aws.client('sns', retries=r)\nx.publish(TopicArn=t)", ["sns Publish"]),
        ("a, b = aws.client('ce'), 1\na.get_cost_and_usage()", ["ce GetCostAndUsage"]),
        ("hook.get_session().client('s3').get_object(Key=k)", ["s3 GetObject"]),
        (
            "from airflow.providers.amazon.aws.operators.emr import X\nself.hook.conn.list_steps()",
            ["emr ListSteps"],
        ),
        ("def f(emr):\n emr.get_waiter('cluster_terminated')", ["emr DescribeCluster"]),
        ("later(self._ec2.describe_subnets)", ["ec2 DescribeSubnets"]),
        ("from p import wheelhouse\nwheelhouse.publish(x)", []),
    ],
)
def test_calls_are_read_from_sources(source: str, calls: list[str]) -> None:
    usage = Usage()
    find_in(source, "x.py", usage)
    assert [f"{call.service} {call.operation}" for call in usage.calls] == calls
    assert usage.unclear == []


@pytest.mark.parametrize(
    "source",
    [
        "thing.describe_subnets()",
        "x.publish(TopicArn=t)",
        "boto3.resource('s3')",
        "aws.client(name)",
        "thing.get_paginator('list_steps')",
        "def f(emr):\n getattr(emr, name)()",
    ],
)
def test_a_call_that_cannot_be_understood_is_reported(source: str) -> None:
    usage = Usage()
    find_in(source, "x.py", usage)
    assert len(usage.unclear) == 1
    assert usage.unclear[0].startswith("x.py:")


# Every request is allowed


def test_airflows_role_allows_what_the_dags_ask(world: World, requests_of_airflow: list[Request]) -> None:
    refused = [str(request) for request in requests_of_airflow if not allows(world.airflow, request)]
    assert refused == []
    assert len(requests_of_airflow) > 30


def test_the_nodes_role_allows_what_the_jobs_ask(world: World, requests_of_nodes: list[Request]) -> None:
    refused = [str(request) for request in requests_of_nodes if not allows(world.nodes, request)]
    assert refused == []
    assert len(requests_of_nodes) > 10


def test_emrs_role_passes_the_nodes_role_and_makes_that_of_spot(world: World) -> None:
    nodes = world.stack.arn("NodeRole")
    to_ec2 = {"iam:PassedToService": "ec2.amazonaws.com"}
    assert allows(world.service, Request("iam:PassRole", nodes, to_ec2))
    assert allows(world.service, world.service_linked("spot.amazonaws.com", "AWSServiceRoleForEC2Spot"))
    managed = world.stack.resources()["EmrServiceRole"]["ManagedPolicyArns"]
    assert managed == ["arn:aws:iam::aws:policy/service-role/AmazonEMRServicePolicy_v2"]


def test_awss_policy_for_emr_is_one_that_exists_and_leaves_these_two_to_us() -> None:
    from moto.iam.aws_managed_policies import aws_managed_policies_data

    statements = json.loads(aws_managed_policies_data)["AmazonEMRServicePolicy_v2"]["Document"]["Statement"]
    passing = [entry["Resource"] for entry in statements if "iam:PassRole" in entry["Action"]]
    assert passing
    assert all(resource.endswith("_DefaultRole") for resource in passing)
    assert not [entry for entry in statements if "iam:CreateServiceLinkedRole" in entry["Action"]]


def test_without_a_source_the_roles_know_no_other_bucket(template: dict[str, Any]) -> None:
    for parameters, others in ((WITH_SOURCE, True), (PARAMETERS, False)):
        stack = Stack(template, parameters)
        for role in ("AirflowRole", "NodeRole"):
            assert ("photos" in json.dumps(stack.statements(role))) is others


# Nothing else is allowed


def test_no_permission_is_left_that_nothing_asks_for(
    world: World, requests_of_airflow: list[Request], requests_of_nodes: list[Request]
) -> None:
    for statements, requests in ((world.airflow, requests_of_airflow), (world.nodes, requests_of_nodes)):
        for statement in statements:
            used = {request.action for request in requests if allows([statement], request)}
            actions = statement["Action"]
            assert used == ({actions} if isinstance(actions, str) else set(actions)), statement["Sid"]


def test_no_statement_allows_by_wildcard(template: dict[str, Any]) -> None:
    wildcards = {
        (permission.statement["Effect"], action)
        for permission in plan.permissions(template)
        for action in permission.actions
        if "*" in action or "?" in action
    }
    assert wildcards == {("Deny", "s3:*")}


def test_actions_exist_and_are_limited_to_resources_where_aws_can(template: dict[str, Any]) -> None:
    for permission in plan.permissions(template):
        for action in permission.actions:
            if permission.statement["Effect"] == "Deny":
                continue
            kinds = resource_types(action)
            if permission.statement["Resource"] == "*":
                assert kinds == [] or action in WHOLE_ACCOUNT, action
            else:
                assert kinds, action


def test_no_statement_turns_its_meaning_around(template: dict[str, Any]) -> None:
    for permission in plan.permissions(template):
        assert not set(permission.statement) & {"NotAction", "NotResource", "NotPrincipal"}


def test_the_pipelines_clusters_carry_the_tags_of_the_conditions(world: World) -> None:
    assert world.tags[clusters.PROJECT_TAG] == clusters.PROJECT
    assert world.tags[clusters.EMR_TAG] == "true"


@pytest.mark.parametrize(
    "operation", ["AddJobFlowSteps", "CancelSteps", "SetTerminationProtection", "TerminateJobFlows"]
)
def test_clusters_of_others_are_out_of_reach(world: World, operation: str) -> None:
    action = f"elasticmapreduce:{operation}"
    ours = Request(action, world.cluster, {**world.region, **world.tagged})
    assert allows(world.airflow, ours)
    theirs = {"elasticmapreduce:ResourceTag/project": "payroll"}
    assert not allows(world.airflow, Request(action, world.cluster, {**world.region, **theirs}))
    assert not allows(world.airflow, Request(action, world.cluster, world.region))
    elsewhere = world.cluster.replace(REGION, "us-east-1")
    assert not allows(world.airflow, Request(action, elsewhere, ours.context))


@pytest.mark.parametrize("missing", ["project", "for-use-with-amazon-emr-managed-policies", "region"])
def test_a_cluster_without_the_tags_or_in_another_region_is_not_started(world: World, missing: str) -> None:
    launch = next(iter(world.launches.values()))
    start = next(world.launch(launch))
    assert allows(world.airflow, start)
    context = {key: value for key, value in start.context.items() if not key.endswith(f"/{missing}")}
    if missing == "region":
        context["aws:RequestedRegion"] = "us-east-1"
    assert context != start.context
    assert not allows(world.airflow, Request(start.action, "*", context))


@pytest.mark.parametrize("role", ["airflow", "nodes"])
def test_other_buckets_are_out_of_reach(world: World, role: str) -> None:
    statements = getattr(world, role)
    for action, place in (
        ("s3:ListBucket", ""),
        ("s3:GetObject", "/k"),
        ("s3:PutObject", "/k"),
        ("s3:DeleteObject", "/k"),
    ):
        assert not allows(statements, Request(action, f"arn:aws:s3:::payroll{place}", world.region))
        assert not allows(statements, Request(action, f"arn:aws:s3:::team-fruits-2{place}", world.region))


def test_the_source_is_read_only(world: World) -> None:
    for statements in (world.airflow, world.nodes):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not allows(statements, Request(action, "arn:aws:s3:::photos/a/1.jpg", world.region))


def test_nodes_cannot_change_what_other_runs_are_made_with(world: World) -> None:
    bucket = world.stack.arn("Bucket")
    for key in ("models/d/backbone.tflite", "wheelhouse/d/x86_64/numpy.whl"):
        for action in ("s3:PutObject", "s3:DeleteObject"):
            assert not allows(world.nodes, Request(action, f"{bucket}/{key}"))


def test_nodes_use_s3_only_and_optionally_session_manager(world: World, template: dict[str, Any]) -> None:
    def services(statements: list[dict[str, Any]]) -> set[str]:
        texts = [statement["Action"] for statement in statements]
        actions = [action for text in texts for action in ([text] if isinstance(text, str) else text)]
        return {action.partition(":")[0] for action in actions}

    assert services(world.nodes) == {"s3"}
    reachable = Stack(template, {**PARAMETERS, "SessionManager": "true"})
    assert services(reachable.statements("NodeRole")) == {"s3", "ssm", "ssmmessages"}


def test_roles_are_passed_to_their_services_only(world: World) -> None:
    service, nodes = world.stack.arn("EmrServiceRole"), world.stack.arn("NodeRole")
    admin = f"arn:aws:iam::{ACCOUNT}:role/Admin"
    emr, ec2 = "elasticmapreduce.amazonaws.com", "ec2.amazonaws.com"
    allowed = {
        (role, to)
        for role in (service, nodes, admin, world.stack.arn("AirflowRole"))
        for to in (emr, ec2, "lambda.amazonaws.com")
        if allows(world.airflow, Request("iam:PassRole", role, {"iam:PassedToService": to}))
    }
    assert allowed == {(service, emr), (nodes, ec2)}


def test_the_roles_trust_whom_they_name(template: dict[str, Any]) -> None:
    def trust(role: str, **parameters: str) -> dict[str, Any]:
        properties = Stack(template, {**PARAMETERS, **parameters}).resources()[role]
        (statement,) = properties["AssumeRolePolicyDocument"]["Statement"]
        assert (statement["Effect"], statement["Action"]) == ("Allow", "sts:AssumeRole")
        return statement

    assert trust("NodeRole")["Principal"] == {"Service": "ec2.amazonaws.com"}
    emr = trust("EmrServiceRole")
    assert emr["Principal"] == {"Service": "elasticmapreduce.amazonaws.com"}
    assert emr["Condition"]["StringEquals"] == {"aws:SourceAccount": ACCOUNT}
    assert trust("AirflowRole")["Principal"] == {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}
    given = [f"arn:aws:iam::{ACCOUNT}:role/worker", f"arn:aws:iam::{ACCOUNT}:user/me"]
    assert trust("AirflowRole", AirflowPrincipals=",".join(given))["Principal"] == {"AWS": given}


def test_the_policies_fit_into_their_roles(template: dict[str, Any]) -> None:
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html: without white space
    for name in Stack(template).resources("AWS::IAM::Role"):
        documents = [policy["PolicyDocument"] for policy in Stack(template).resources()[name]["Policies"]]
        text = "".join(json.dumps(document, separators=(",", ":")) for document in documents)
        assert len(text) <= 10_240
