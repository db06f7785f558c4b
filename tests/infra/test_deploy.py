"""The template deploys, as far as moto supports CloudFormation."""

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

# moto creates these by their services, but not by CloudFormation. For a bucket it sets name and encryption
# only; for the other resources, what the tests below assert.
UNKNOWN_TO_MOTO = {"AWS::Budgets::Budget", "AWS::S3::BucketPolicy", "AWS::SNS::TopicPolicy"}

EVERYTHING = {**WITH_SOURCE, "SessionManager": "true"}


def known_to_moto(template: dict[str, Any]) -> dict[str, Any]:
    """The template without the resources that moto does not support."""
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
    # With every option, because moto fails on a policy that a condition excludes.
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
    ids = {item["LogicalResourceId"]: item["PhysicalResourceId"] for item in resources}
    return {**ids, "Environment": outputs["Environment"]}


def environment(deployed: dict[str, str]) -> dict[str, str]:
    pairs = (line.partition("=") for line in deployed["Environment"].splitlines())
    return {name: value.strip("'") for name, _, value in pairs}


def test_all_that_moto_knows_is_made(deployed: dict[str, str], template: dict[str, Any]) -> None:
    assert set(deployed) - {"Environment"} == set(known_to_moto(template)["Resources"])


def test_the_environment_names_what_was_made(deployed: dict[str, str]) -> None:
    loaded = settings.load(environment(deployed))
    assert loaded.bucket == deployed["Bucket"] == "team-fruits"
    assert loaded.subnet_ids == (deployed["PrivateSubnet"],)
    assert loaded.service_role == deployed["EmrServiceRole"]
    assert loaded.instance_profile == deployed["NodeProfile"] == deployed["NodeRole"]
    assert loaded.security_configuration == deployed["SecurityConfiguration"]
    assert loaded.sns_topic_arn == deployed["Topic"]


def test_the_preflight_finds_the_roles_by_the_environment(
    deployed: dict[str, str], server: AwsProcess
) -> None:
    account = Aws(boto3.Session("test", "test", region_name=REGION), REGION, server.endpoint)
    preflight.check_roles(settings.load(environment(deployed)), account)


def test_the_bucket_is_encrypted(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    encryption = aws["s3"].get_bucket_encryption(Bucket=deployed["Bucket"])
    (rule,) = encryption["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    where = aws["s3"].get_bucket_location(Bucket=deployed["Bucket"])["LocationConstraint"]
    assert where == REGION


@pytest.mark.parametrize("role", ["AirflowRole", "EmrServiceRole", "NodeRole"])
def test_the_policies_have_no_function_left(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any], role: str
) -> None:
    name = deployed[role]
    # moto returns documents from CloudFormation as Python's repr.
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
    configuration = aws["emr"].describe_security_configuration(Name=name)["SecurityConfiguration"]
    assert "MinimumInstanceMetadataServiceVersion" in str(configuration)


def test_the_address_is_subscribed_to_the_topic(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    subscriptions = aws["sns"].list_subscriptions_by_topic(TopicArn=deployed["Topic"])["Subscriptions"]
    assert [(one["Protocol"], one["Endpoint"]) for one in subscriptions] == [("email", "team@example.org")]


def test_the_rule_sends_to_the_topic(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    names = [rule["Name"] for rule in aws["events"].list_rules()["Rules"]]
    assert len(names) == 1
    targets = aws["events"].list_targets_by_rule(Rule=names[0])["Targets"]
    assert [target["Arn"] for target in targets] == [deployed["Topic"]]


def test_the_subnet_reaches_s3_by_the_endpoint(aws: dict[str, Any], deployed: dict[str, str]) -> None:
    described = aws["ec2"].describe_vpc_endpoints()["VpcEndpoints"]
    endpoints = {endpoint["ServiceName"]: endpoint for endpoint in described}
    assert set(endpoints) == {f"com.amazonaws.{REGION}.{name}" for name in ("s3", "ssm", "ssmmessages")}
    s3 = endpoints[f"com.amazonaws.{REGION}.s3"]
    assert s3["RouteTableIds"] == [deployed["PrivateRouteTable"]]
    # moto does not show an association from CloudFormation; its id is that of the table.
    assert deployed["PrivateRoutes"] == deployed["PrivateRouteTable"]


# Resources that moto does not create by CloudFormation are created by the services themselves.


def test_the_budget_is_one_that_the_service_takes(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any]
) -> None:
    properties = Stack(template).resources()["Budget"]
    budget = properties["Budget"]
    # CloudFormation accepts a number, the service needs text.
    budget["BudgetLimit"]["Amount"] = str(budget["BudgetLimit"]["Amount"])
    aws["budgets"].create_budget(
        AccountId=ACCOUNT,
        Budget=budget,
        NotificationsWithSubscribers=properties["NotificationsWithSubscribers"],
    )
    (budget,) = aws["budgets"].describe_budgets(AccountId=ACCOUNT)["Budgets"]
    assert budget["BudgetName"] == f"fruits-{REGION}"


def test_the_policies_of_bucket_and_topic_are_taken(
    aws: dict[str, Any], deployed: dict[str, str], template: dict[str, Any]
) -> None:
    resources = Stack(template).resources()
    policy = json.dumps(resources["BucketPolicy"]["PolicyDocument"])
    aws["s3"].put_bucket_policy(Bucket=deployed["Bucket"], Policy=policy)
    assert aws["s3"].get_bucket_policy(Bucket=deployed["Bucket"])["Policy"] == policy
    policy = json.dumps(resources["TopicPolicy"]["PolicyDocument"])
    topic = deployed["Topic"]
    aws["sns"].set_topic_attributes(TopicArn=topic, AttributeName="Policy", AttributeValue=policy)
    attached = aws["sns"].get_topic_attributes(TopicArn=topic)["Attributes"]["Policy"]
    assert json.loads(attached) == json.loads(policy)
