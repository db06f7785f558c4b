"""URLs of objects in S3: in the AWS console, or at the endpoint that a deployment sets for browsers."""

from __future__ import annotations

import pytest

from fruit_pipeline import settings
from fruit_pipeline.aws.console_urls import browser_url, step_log_url

CONSOLE = "https://eu-north-1.console.aws.amazon.com/s3"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://b-1/runs/r/logs/", f"{CONSOLE}/buckets/b-1?region=eu-north-1&prefix=runs/r/logs/"),
        ("s3n://b-1/logs/a b.gz", f"{CONSOLE}/object/b-1?region=eu-north-1&prefix=logs/a%20b.gz"),
        ("s3://b-1", f"{CONSOLE}/buckets/b-1?region=eu-north-1&prefix="),
    ],
)
def test_the_console_shows_folders_and_objects(uri: str, shown: str) -> None:
    assert browser_url(uri, settings.load({"FRUITS_REGION": "eu-north-1"})) == shown


def test_an_endpoint_for_browsers_takes_the_consoles_place() -> None:
    deployment = settings.load({"FRUITS_BROWSER_ENDPOINT_URL": "http://localhost:5000/"})
    assert browser_url("s3://b-1/logs/a#1.gz", deployment) == "http://localhost:5000/b-1/logs/a%231.gz"


def test_the_deployments_own_settings_are_taken(deployed: pytest.MonkeyPatch) -> None:
    deployed.setenv("FRUITS_BROWSER_ENDPOINT_URL", "https://s3.example.org")
    assert browser_url("s3://b-1/k") == "https://s3.example.org/b-1/k"


def test_of_a_steps_log_the_console_shows_the_folder_and_an_endpoint_the_file(
    deployed: pytest.MonkeyPatch,
) -> None:
    log = "s3://b-1/runs/r/logs/j-1/steps/s-1/stderr.gz"
    console = "https://eu-west-3.console.aws.amazon.com/s3/buckets/b-1?region=eu-west-3"
    assert step_log_url(log) == f"{console}&prefix=runs/r/logs/j-1/steps/s-1/"
    deployed.setenv("FRUITS_BROWSER_ENDPOINT_URL", "http://localhost:5000")
    assert step_log_url(log) == "http://localhost:5000/b-1/runs/r/logs/j-1/steps/s-1/stderr.gz"
    assert step_log_url("in the EMR console") == ""
