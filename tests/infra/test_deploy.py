"""The template deploys, as far as moto knows CloudFormation."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto.cloudformation.parsing import get_model_map
from template_stack import ACCOUNT, REGION, WITH_SOURCE, Stack

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks import preflight
from support.local_aws import AwsProcess, client

# moto makes these through their services, but not through CloudFormation. Of a bucket it makes the
# name and the encryption only; of the rest, what is asserted below.
UNKNOWN_TO_MOTO = {"AWS::Budgets::Budget", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy"}

EVERYTHING = {**WITH_SOURCE, "SessionManager": "true"}


def known_to_moto(template: dict[str, Any]) -> dict[str, Any]:
    """The template without what moto does not know."""
    kept = copy.deepcopy(template)
    for name, resource in template["Resources"].items():
        if resource["Type"] in UNKNOWN_TO_MOTO:
            del kept["Resources"][name]
    return kept


def test_exactly_these_are_left_out(template: dict[str, Any]) -> None:
    types = {resource["Type"] for resource in template["Resources"].values()}
    assert types - set(get_model_map()) == UNKNOWN_TO_MOTO


@pytest.fixture(scope="module")
def server() -> Iterator[AwsProcess]:
    """An empty account: `mock_aws` would empty the one that other tests share in this process."""
    server = AwsProcess()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def aws(server: AwsProcess) -> dict[str, Any]:
    """Clients of the account, by service."""
    names = ("budgets", "cloudformation", "ec2", "emr", "events", "iam", "s3", "sns")
    return {name: client(server.endpoint, name, REGION) for name in names}


@pytest.fixture(scope="module")
def deployed(aws: dict[str, Any], template: dict[str, Any]) -> dict[str, str]:
    """Physical ids by logical id, and the output `Environment` as text."""
    vpc = aws["ec2"].create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
    # With every option, since moto trips over a policy that a condition leaves out.
    parameters = {**EVERYTHING, "VpcId": vpc}
    aws["cloudformation"].create_stack(
        StackName="fruits",
        TemplateBody=json.dumps(known_to_moto(template)),
        Capabilities=["CAPABILITY_NAMED_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    (stack,) = aws["cloudformation"].describe_stacks(StackName="fruits")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    resources = aws["cloudformation"].describe_stack_resources(StackName="fruits")["StackResources"]
    ids = {found["LogicalResourceId"]: found["PhysicalResourceId"] for found in resources}
    return {**ids, "Environment": outputs["Environment"]}


def environment(deployed: dict[str, str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in deployed["Environment"].splitlines())
    return {name: value.strip("'") for name, _, value in pairs}


def test_all_that_moto_knows_is_made(deployed: dict[str, str], template: dict[str, Any]) -> None:
    assert set(deployed) - {"Environment"} == set(known_to_moto(template)["Resources"])


def test_the_environment_names_what_was_made(deployed: dict[str, str]) -> None:
    found = settings.load(environment(deployed))
    assert found.bucket == deployed["Bucket"] == "team-fruits"
    assert found.subnet_ids == (deployed["PrivateSubnet"],)
    assert found.service_role == deployed["EmrServiceRole"]
    assert found.instance_profile == deployed["NodeProfile"] == deployed["NodeRole"]
    assert found.security_configuration == deployed["SecurityConfiguration"]
    assert found.sns_topic_arn == deployed["Topic"]


def test_the_preflight_finds_the_roles_by_the_environment(
    deployed: dict[str, str], server: AwsProcess
) -> None:
    account = Aws(boto3.Session("test", "test", region_name=REGION), REGION, server.endpoint)
    preflight.check_roles(settings.load(environment(deployed)), account)


def test_the_bucket_is_encrypted(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    found = aws["s3"].get_bucket_encryption(Bucket=deployed["Bucket"])
    (rule,) = found["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    where = aws["s3"].get_bucket_location(Bucket=deployed["Bucket"])["LocationConstraint"]
    assert where == REGION


@pytest.mark.parametrize("role", ["AirflowRole", "EmrServiceRole", "NodeRole"])
def test_the_policies_have_no_function_left(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any], role: str
) -> None:
    name = deployed[role]
    # moto gives documents that CloudFormation made as Python's own text.
    documents = [
        ast.literal_eval(aws["iam"].get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"])
        for policy in aws["iam"].list_role_policies(RoleName=name)["PolicyNames"]
    ]
    text = json.dumps(documents)
    assert not any(sign in text for sign in ("Fn::", '"Ref"', "${"))
    sids = {statement["Sid"] for document in documents for statement in document["Statement"]}
    assert sids == {statement["Sid"] for statement in Stack(template, EVERYTHING).statements(role)}


def test_the_profile_holds_the_nodes_role(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    profile = aws["iam"].get_instance_profile(InstanceProfileName=deployed["NodeProfile"])["InstanceProfile"]
    assert [role["RoleName"] for role in profile["Roles"]] == [deployed["NodeRole"]]


def test_the_security_configuration_is_the_one_named(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    name = environment(deployed)["FRUITS_SECURITY_CONFIGURATION"]
    found = aws["emr"].describe_security_configuration(Name=name)["SecurityConfiguration"]
    assert "MinimumInstanceMetadataServiceVersion" in str(found)


def test_the_address_is_asked_to_confirm(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    found = aws["sns"].list_subscriptions_by_topic(TopicArn=deployed["Topic"])["Subscriptions"]
    assert [(one["Protocol"], one["Endpoint"]) for one in found] == [("email", "team@example.org")]


def test_the_rule_sends_to_the_topic(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    names = [rule["Name"] for rule in aws["events"].list_rules()["Rules"]]
    assert len(names) == 1
    targets = aws["events"].list_targets_by_rule(Rule=names[0])["Targets"]
    assert [target["Arn"] for target in targets] == [deployed["Topic"]]


def test_the_subnet_reaches_s3_by_the_endpoint(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    found = aws["ec2"].describe_vpc_endpoints()["VpcEndpoints"]
    endpoints = {endpoint["ServiceName"]: endpoint for endpoint in found}
    assert set(endpoints) == {f"com.amazonaws.{REGION}.{name}" for name in ("s3", "ssm", "ssmmessages")}
    s3 = endpoints[f"com.amazonaws.{REGION}.s3"]
    assert s3["RouteTableIds"] == [deployed["PrivateRouteTable"]]
    # moto keeps an association that CloudFormation made to itself; its id is that of the table.
    assert deployed["PrivateRoutes"] == deployed["PrivateRouteTable"]


# What moto does not make through CloudFormation is held against the services themselves.


def test_the_budget_is_one_that_the_service_takes(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any]
) -> None:
    properties = Stack(template).resources()["Budget"]
    budget = properties["Budget"]
    # CloudFormation takes a number where the service takes text.
    budget["BudgetLimit"]["Amount"] = str(budget["BudgetLimit"]["Amount"])
    aws["budgets"].create_budget(
        AccountId=ACCOUNT,
        Budget=budget,
        NotificationsWithSubscribers=properties["NotificationsWithSubscribers"],
    )
    (found,) = aws["budgets"].describe_budgets(AccountId=ACCOUNT)["Budgets"]
    assert found["BudgetName"] == f"fruits-{REGION}"


def test_the_policies_of_bucket_and_topic_are_taken(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any]
) -> None:
    made = Stack(template).resources()
    policy = json.dumps(made["BucketPolicy"]["PolicyDocument"])
    aws["s3"].put_bucket_policy(Bucket=deployed["Bucket"], Policy=policy)
    assert aws["s3"].get_bucket_policy(Bucket=deployed["Bucket"])["Policy"] == policy
    policy = json.dumps(made["TopicPolicy"]["PolicyDocument"])
    topic = deployed["Topic"]
    aws["sns"].set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    found = aws["sns"].get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"]
    assert json.loads(found) == json.loads(policy)
