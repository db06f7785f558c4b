"""A local AWS is set up once or twice alike, and a real account never."""

from __future__ import annotations

import pytest

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks import preflight
from fruit_pipeline.commands import local_account
from support.local_aws import REGION, LocalAws

KEYS = {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}


def test_a_set_up_account_passes_the_preflight_the_second_time_as_well(
    local_aws: LocalAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables = {**KEYS, "AWS_ENDPOINT_URL": local_aws.endpoint, "FRUITS_REGION": REGION}
    for name, value in {**variables, "FRUITS_BUCKET": "made-twice"}.items():
        monkeypatch.setenv(name, value)
    assert [local_account.main([]), local_account.main([])] == [0, 0]
    assert "made-twice" in capsys.readouterr().out
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
def test_what_is_missing_is_said_in_one_line(
    variables: dict[str, str],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for name, value in {**KEYS, **variables}.items():
        monkeypatch.setenv(name, value)
    assert local_account.main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert reason in line
