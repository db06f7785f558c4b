"""A deployment's settings: defaults, each variable, and refusals that name the variable."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fruit_pipeline import settings
from image_features.errors import JobError


def test_without_variables_the_defaults_hold(repo: Path) -> None:
    found = settings.load({})
    assert found.bucket is None
    assert found.region == "eu-west-3"
    assert found.region in found.allowed_regions
    assert found.home == repo
    assert found.node_target == "emr"
    assert found.source_aws_conn_id == found.aws_conn_id == "aws_default"
    assert found.cache_dir.is_absolute()
    assert found.sns_topic_arn is None, "nobody is written to unasked"
    assert (found.schedule, found.schedule_params) == (None, None), "nothing runs unasked"
    assert found.max_active_runs == 1
    assert found.reap is False, "nothing is terminated unasked"
    assert (found.language, found.time_zone.key, found.retention_days) == ("en", "UTC", 30)


def test_the_default_regions_lie_in_the_eu() -> None:
    assert all(region.startswith("eu-") for region in settings.EU_REGIONS)
    assert not {"eu-west-2", "eu-central-2"} & set(settings.EU_REGIONS)  # London, Zurich


def test_every_variable_has_a_meaning_and_a_name_of_its_own() -> None:
    names = [variable.name for variable in settings.VARIABLES.values()]
    assert len(set(names)) == len(names) == len(fields(settings.Settings))
    assert all(name.startswith("FRUITS_") for name in names)
    assert all(variable.meaning for variable in settings.VARIABLES.values())


def test_variables_are_taken_and_blank_ones_are_not() -> None:
    found = settings.load(
        {
            "FRUITS_BUCKET": " team ",
            "FRUITS_REGION": "eu-north-1",
            "FRUITS_ALLOWED_REGIONS": "eu-north-1, eu-west-3,",
            "FRUITS_AWS_CONN_ID": "mine",
            "FRUITS_SOURCE": "/images",
            "FRUITS_WEIGHTS": "random:0",
            "FRUITS_POLL_SECONDS": "5",
            "FRUITS_SUBNET_ID": "  ",
            "FRUITS_SNS_TOPIC_ARN": "arn:aws:sns:eu-north-1:123456789012:fruits",
            "FRUITS_LANGUAGE": "fr",
            "FRUITS_TIME_ZONE": "Europe/Paris",
            "FRUITS_RETENTION_DAYS": "7",
            "FRUITS_REAP": "true",
            "FRUITS_REAP_HOURS": "48",
            "FRUITS_SCHEDULE": "@weekly",
            "FRUITS_SCHEDULE_PARAMS": "~/weekly.json",
            "FRUITS_MAX_ACTIVE_RUNS": "2",
        }
    )
    assert (found.bucket, found.region, found.poll_seconds) == ("team", "eu-north-1", 5)
    assert found.allowed_regions == ("eu-north-1", "eu-west-3")
    assert found.source_aws_conn_id == "mine"
    assert (found.source, found.weights) == ("/images", "random:0")
    assert found.subnet_ids == ()
    assert found.sns_topic_arn == "arn:aws:sns:eu-north-1:123456789012:fruits"
    assert (found.language, found.time_zone.key) == ("fr", "Europe/Paris")
    assert (found.retention_days, found.reap, found.reap_hours) == (7, True, 48)
    assert (found.schedule, found.schedule_params) == ("@weekly", Path.home() / "weekly.json")
    assert found.max_active_runs == 2


def test_several_subnets_an_owner_and_a_security_configuration_are_taken() -> None:
    found = settings.load(
        {
            "FRUITS_SUBNET_ID": "subnet-0a, subnet-0b,",
            "FRUITS_OWNER": "Équipe données",
            "FRUITS_SECURITY_CONFIGURATION": "imdsv2",
        }
    )
    assert found.subnet_ids == ("subnet-0a", "subnet-0b")
    assert (found.owner, found.security_configuration) == ("Équipe données", "imdsv2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FRUITS_SUBNET_ID", "vpc-1"),
        ("FRUITS_SUBNET_ID", "subnet-0a; subnet-0b"),
        ("FRUITS_OWNER", "me <me@example.org>"),
        ("FRUITS_OWNER", "x" * 257),
        ("FRUITS_OWNER", "AWS:me"),
        ("FRUITS_NODE_TARGET", "laptop"),
        ("FRUITS_PRIVATE_SUBNET", "yes"),
        ("FRUITS_POLL_SECONDS", "0"),
        ("FRUITS_POLL_SECONDS", "1.5"),
        ("FRUITS_POLL_SECONDS", "-2"),
        ("FRUITS_POLL_SECONDS", "often"),
        # With more, the wait for the cluster's end would time out before its first poll.
        ("FRUITS_POLL_SECONDS", "3600"),
        ("FRUITS_MAX_ACTIVE_RUNS", "0"),
        ("FRUITS_MAX_ACTIVE_RUNS", "51"),
        ("FRUITS_SNS_TOPIC_ARN", "fruits"),
        # No mailbox can subscribe to a FIFO topic.
        ("FRUITS_SNS_TOPIC_ARN", "arn:aws:sns:eu-west-3:123456789012:fruits.fifo"),
        # Messages name data, which stays in the allowed regions.
        ("FRUITS_SNS_TOPIC_ARN", "arn:aws:sns:us-east-1:123456789012:fruits"),
        ("FRUITS_LANGUAGE", "de"),
        ("FRUITS_TIME_ZONE", "Paris"),
        ("FRUITS_TIME_ZONE", "../etc/passwd"),
        ("FRUITS_TIME_ZONE", "Europe"),
        ("FRUITS_RETENTION_DAYS", "0"),
        ("FRUITS_BROWSER_ENDPOINT_URL", "localhost:5000"),
        ("FRUITS_BROWSER_ENDPOINT_URL", "http://localhost:5000/bucket"),
        ("FRUITS_REAP", "yes"),
        ("FRUITS_REAP_HOURS", "0"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(name: str, value: str) -> None:
    with pytest.raises(JobError, match=rf"{name} is '{re.escape(value)}'; expected"):
        settings.load({name: value})
