"""A local AWS can be set up repeatedly, and a real account never."""

from __future__ import annotations

import json

import pytest

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks import preflight
from support.cli import run_cli
from support.local_aws import REGION, LocalAws

KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


def test_a_set_up_account_passes_the_preflight_the_second_time_as_well(
    local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {**KEYS, "AWS_ENDPOINT_URL": local_aws.endpoint, "FRUITS_REGION": REGION}
    for name, value in {**variables, "FRUITS_BUCKET": "made-twice"}.items():
        monkeypatch.setenv(name, value)
    first, second = run_cli("local-account"), run_cli("local-account", "--json")
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(second.stdout) == {"endpoint": local_aws.endpoint, "bucket": "made-twice"}
    deployment, aws = settings.load(), Aws.from_environment(REGION)
    preflight.check_bucket("made-twice", deployment, aws)
    preflight.check_roles(deployment, aws)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"FRUITS_BUCKET": "b"}, "AWS_ENDPOINT_URL names no local AWS"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "no bucket: give --bucket, or set FRUITS_BUCKET"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9", "FRUITS_BUCKET": "bbb"}, "127.0.0.1:9 could not be set up"),
    ],
)
def test_missing_settings_are_reported_in_one_line(
    variables: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    refused = run_cli("local-account", **KEYS, **variables)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert reason in line
