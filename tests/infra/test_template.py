"""The template is valid for CloudFormation, and creates what the pipeline needs."""

from __future__ import annotations

import json
import shlex
from importlib.resources import files
from typing import Any

import pytest
from cfnlint.api import lint_file
from cfnlint.config import ManualArgs
from moto.events.models import EventPattern
from template_stack import OWN_SUBNETS, PARAMETERS, REGION, WITH_SOURCE, Stack

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters
from infra import plan

ALL = [
    PARAMETERS,
    WITH_SOURCE,
    OWN_SUBNETS,
    {**PARAMETERS, "AirflowPrincipals": "arn:aws:iam::210987654321:role/a"},
]


def regions_of(template: dict[str, Any]) -> list[str]:
    (assertion,) = template["Rules"]["InsideTheEu"]["Assertions"]
    regions, value = assertion["Assert"]["Fn::Contains"]
    assert value == {"Ref": "AWS::Region"}
    return list(regions)


def test_cfn_lint_reports_nothing(template: dict[str, Any]) -> None:
    options = ManualArgs(regions=regions_of(template), include_checks=["I"])
    assert [str(match) for match in lint_file(plan.TEMPLATE, options)] == []


def test_it_is_short_enough_to_be_given_as_a_body() -> None:
    # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
    assert len(plan.TEMPLATE.read_bytes()) <= 51_200


def test_it_deploys_in_the_regions_of_the_eu_that_know_all_its_types(template: dict[str, Any]) -> None:
    types = {resource["Type"] for resource in template["Resources"].values()}
    folder = files("cfnlint.data.schemas.providers")
    known = {
        region: set(json.loads(folder.joinpath(f"{region}.json").read_text()))
        for region in settings.EU_REGIONS
    }
    assert regions_of(template) == [region for region in settings.EU_REGIONS if types <= known[region]]
    assert settings.load({}).region in regions_of(template)
    assert {kind for region in known for kind in types - known[region]} == {"AWS::Budgets::Budget"}


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-2", "eu-central-2"])
def test_it_refuses_regions_outside_the_eu(template: dict[str, Any], region: str) -> None:
    (reason,) = Stack(template, region=region).refused_because()
    assert reason.startswith("Deploy in eu-central-1, ")


@pytest.mark.parametrize("parameters", ALL)
def test_it_takes_what_the_documentation_gives(template: dict[str, Any], parameters: dict[str, str]) -> None:
    assert Stack(template, parameters).refused_because() == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"PrivateSubnetCidr": ""}, "Give SubnetIds or PrivateSubnetCidr."),
        ({"SubnetIds": "subnet-1"}, "Give SubnetIds or PrivateSubnetCidr, not both."),
    ],
)
def test_it_refuses_half_a_network(template: dict[str, Any], change: dict[str, str], reason: str) -> None:
    assert Stack(template, {**PARAMETERS, **change}).refused_because() == [reason]


# Outputs


@pytest.mark.parametrize("parameters", ALL)
def test_the_environment_is_one_that_the_settings_take(
    template: dict[str, Any], parameters: dict[str, str]
) -> None:
    stack = Stack(template, parameters)
    environment = stack.environment()
    loaded = settings.load(environment)
    assert (loaded.bucket, loaded.region, loaded.retention_days) == ("team-fruits", REGION, 30)
    assert loaded.service_role == "fruits-EmrServiceRole"
    assert loaded.instance_profile == "fruits-NodeRole"
    assert loaded.security_configuration == "fruits-SecurityConfiguration"
    assert loaded.sns_topic_arn == f"arn:aws:sns:{REGION}:123456789012:fruits-Topic"
    own = parameters is OWN_SUBNETS
    assert loaded.subnet_ids == (("subnet-1", "subnet-2") if own else ("subnet-privatesubnet",))
    assert loaded.private_subnet is not own


def test_every_variable_is_one_that_the_settings_explain(template: dict[str, Any]) -> None:
    names = [name for name in Stack(template).environment() if name.startswith("FRUITS_")]
    assert len(names) >= 8
    assert set(names) <= {variable.name for variable in settings.VARIABLES.values()}


def test_a_shell_reads_the_environment_as_it_is_meant(template: dict[str, Any]) -> None:
    stack = Stack(template)
    for line in stack.outputs()["Environment"].splitlines():
        (word,) = shlex.split(line)
        name, _, value = word.partition("=")
        assert stack.environment()[name] == value


def test_the_connection_takes_airflows_role(template: dict[str, Any]) -> None:
    stack = Stack(template)
    connection_id = settings.load(stack.environment()).aws_conn_id
    connection = json.loads(stack.environment()[f"AIRFLOW_CONN_{connection_id.upper()}"])
    assert connection == {
        "conn_type": "aws",
        "extra": {"role_arn": stack.arn("AirflowRole"), "region_name": REGION},
    }
    assert stack.outputs()["AirflowRoleArn"] == stack.arn("AirflowRole")


# Storage


def test_the_bucket_is_encrypted_versioned_never_public_and_outlives_the_stack(
    template: dict[str, Any],
) -> None:
    resource = template["Resources"]["Bucket"]
    assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
    bucket = Stack(template).resources()["Bucket"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]


def test_no_lifecycle_rule_can_expire_a_result(template: dict[str, Any]) -> None:
    rules = Stack(template).resources()["Bucket"]["LifecycleConfiguration"]["Rules"]
    assert {rule["Id"]: rule["Status"] for rule in rules} == {
        "old-versions": "Enabled",
        "delete-markers": "Enabled",
        "incomplete-uploads": "Enabled",
    }
    for rule in rules:
        assert not set(rule) & {"ExpirationInDays", "ExpirationDate", "Transition", "Transitions"}


def test_the_bucket_refuses_plain_http_and_old_tls(template: dict[str, Any]) -> None:
    statements = Stack(template).resources()["BucketPolicy"]["PolicyDocument"]["Statement"]
    conditions = {statement["Sid"]: statement["Condition"] for statement in statements}
    assert conditions == {
        "NoPlainHttp": {"Bool": {"aws:SecureTransport": "false"}},
        "NoOldTls": {"NumericLessThan": {"s3:TlsVersion": "1.2"}},
    }
    for statement in statements:
        assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
        assert statement["Resource"] == ["arn:aws:s3:::team-fruits", "arn:aws:s3:::team-fruits/*"]


# Clusters


def test_a_profile_has_its_roles_name_as_emr_wants(template: dict[str, Any]) -> None:
    profile = Stack(template).resources()["NodeProfile"]
    assert profile["Roles"] == [profile["InstanceProfileName"]] == ["fruits-NodeRole"]


def test_nodes_speak_imdsv2(template: dict[str, Any]) -> None:
    configuration = Stack(template).resources()["SecurityConfiguration"]["SecurityConfiguration"]
    metadata = configuration["InstanceMetadataServiceConfiguration"]
    assert metadata["MinimumInstanceMetadataServiceVersion"] == 2
    assert 1 <= metadata["HttpPutResponseHopLimit"] <= 64


def test_the_private_subnet_is_tagged_for_emr_and_reaches_s3_only(template: dict[str, Any]) -> None:
    stack = Stack(template)
    subnet = stack.resources()["PrivateSubnet"]
    assert subnet["MapPublicIpOnLaunch"] is False
    assert {"Key": clusters.EMR_TAG, "Value": "true"} in subnet["Tags"]
    assert stack.resources("AWS::EC2::Route") == {}
    endpoint = stack.resources()["S3Endpoint"]
    assert endpoint["ServiceName"] == f"com.amazonaws.{REGION}.s3"
    assert endpoint["RouteTableIds"] == [stack.resources()["PrivateRoutes"]["RouteTableId"]]


def test_own_subnets_leave_the_network_alone(template: dict[str, Any]) -> None:
    kinds = {resource["Type"] for resource in template["Resources"].values()}
    network = {kind for kind in kinds if kind.startswith("AWS::EC2::")}
    assert len(network) == 5
    for kind in network:
        assert Stack(template, OWN_SUBNETS).resources(kind) == {}


def test_session_manager_is_an_option_that_reaches_a_private_subnet_too(template: dict[str, Any]) -> None:
    parts = {"SessionsGroup", "SsmEndpoint", "SessionsEndpoint"}
    assert not parts & set(Stack(template).resources())
    assert not parts & set(Stack(template, {**OWN_SUBNETS, "SessionManager": "true"}).resources())
    resources = Stack(template, {**PARAMETERS, "SessionManager": "true"}).resources()
    assert parts <= set(resources)
    (ingress,) = resources["SessionsGroup"]["SecurityGroupIngress"]
    assert (ingress["FromPort"], ingress["ToPort"]) == (443, 443)
    assert ingress["CidrIp"] == resources["PrivateSubnet"]["CidrBlock"]
    for name, service in (("SsmEndpoint", "ssm"), ("SessionsEndpoint", "ssmmessages")):
        assert resources[name]["ServiceName"] == f"com.amazonaws.{REGION}.{service}"
        assert resources[name]["SubnetIds"] == ["subnet-privatesubnet"]


# Messages and costs


def failed_event(name: str, **detail: str) -> dict[str, Any]:
    """As in https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-manage-cloudwatch-events.html"""
    return {
        "version": "0",
        "id": "60043ea3-8a7c-4a9e-9e0e-2a3f4b1f3f5a",
        "detail-type": "EMR Cluster State Change",
        "source": "aws.emr",
        "account": "123456789012",
        "time": "2026-11-21T00:00:00Z",
        "region": REGION,
        "resources": [],
        "detail": {
            "severity": "CRITICAL",
            "stateChangeReason": '{"code":"BOOTSTRAP_FAILURE","message":"..."}',
            "name": name,
            "clusterId": "j-123456789ABCD",
            "state": "TERMINATED_WITH_ERRORS",
            "message": f"Amazon EMR Cluster j-123456789ABCD ({name}) has terminated with errors.",
            **detail,
        },
    }


def test_the_rule_matches_our_clusters_that_end_with_errors(template: dict[str, Any]) -> None:
    pattern = EventPattern.load(json.dumps(Stack(template).resources()["ClusterFailed"]["EventPattern"]))
    assert pattern.matches_event(failed_event(clusters.name_of("r1")))
    assert not pattern.matches_event(failed_event("somebody else's"))
    assert not pattern.matches_event(failed_event(clusters.name_of("r1"), state="TERMINATED"))


def test_the_message_about_a_cluster_names_it(template: dict[str, Any]) -> None:
    (target,) = Stack(template).resources()["ClusterFailed"]["Targets"]
    transformer = target["InputTransformer"]
    event = failed_event(clusters.name_of("r1"))
    text = json.loads(transformer["InputTemplate"])
    for name, path in transformer["InputPathsMap"].items():
        value: Any = event
        for part in path.removeprefix("$.").split("."):
            value = value[part]
        text = text.replace(f"<{name}>", value)
    assert "j-123456789ABCD (image-features r1)" in text
    assert text.endswith(f" Region: {REGION}.")


def test_only_the_rule_and_the_budget_may_use_the_topic_from_outside(template: dict[str, Any]) -> None:
    stack = Stack(template)
    statements = stack.resources()["TopicPolicy"]["PolicyDocument"]["Statement"]
    allowed = {
        statement["Principal"]["Service"]: statement["Condition"]
        for statement in statements
        if statement["Effect"] == "Allow"
    }
    assert allowed == {
        "events.amazonaws.com": {"ArnEquals": {"aws:SourceArn": stack.arn("ClusterFailed")}},
        "budgets.amazonaws.com": {"StringEquals": {"aws:SourceAccount": "123456789012"}},
    }
    assert stack.resources()["Topic"]["Subscription"] == [
        {"Protocol": "email", "Endpoint": "team@example.org"}
    ]


def test_the_budget_counts_what_carries_the_runs_tag(template: dict[str, Any]) -> None:
    budget = Stack(template, {**PARAMETERS, "MonthlyBudgetUsd": "200"}).resources()["Budget"]
    assert budget["Budget"]["BudgetLimit"] == {"Amount": "200", "Unit": "USD"}
    # The cost report uses the same filter.
    assert budget["Budget"]["FilterExpression"] == {
        "Not": {"Tags": {"Key": clusters.RUN_TAG, "MatchOptions": ["ABSENT"]}}
    }
    alerts = {
        (entry["Notification"]["NotificationType"], entry["Notification"]["Threshold"])
        for entry in budget["NotificationsWithSubscribers"]
    }
    assert alerts == {("ACTUAL", 80), ("FORECASTED", 100)}
    for entry in budget["NotificationsWithSubscribers"]:
        (subscriber,) = entry["Subscribers"]
        assert subscriber["Address"] == f"arn:aws:sns:{REGION}:123456789012:fruits-Topic"
