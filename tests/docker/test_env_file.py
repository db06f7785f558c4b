"""`make env` writes secrets once, readable by their owner only; `make up` checks before it starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from fruit_pipeline import settings

SECRETS = ("UI_PASSWORD", "POSTGRES_PASSWORD", "FERNET_KEY", "API_SECRET_KEY", "JWT_SECRET")


def script(repo: Path, name: str, *args: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, str(repo / "docker" / name), *args],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def values(file: Path) -> dict[str, str]:
    lines = file.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def env_file(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("env") / ".env"
    done = script(repo, "make_env.py", "--file", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    return file


def test_secrets_are_long_and_only_their_owner_reads_them(env_file: Path) -> None:
    written = values(env_file)
    assert all(len(written[name]) >= 20 for name in SECRETS)
    assert len({written[name] for name in SECRETS}) == len(SECRETS)
    Fernet(written["FERNET_KEY"])
    assert env_file.stat().st_mode & 0o777 == 0o600


def test_a_shell_and_compose_read_the_same_values(env_file: Path) -> None:
    """docs/aws.md reads .env in a shell, so no value may need quotes."""
    assert all(re.fullmatch(r"[\w./:=+-]*", value) for value in values(env_file).values())


def test_every_variable_that_compose_requires_is_written(repo: Path, env_file: Path) -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (repo / "docker-compose.yaml").read_text()))
    assert required
    assert {name for name in required if not values(env_file).get(name)} == set()


def test_every_setting_of_the_deployment_reaches_the_containers(repo: Path) -> None:
    files = [
        "docker-compose.yaml",
        "docker/Dockerfile",
        "docker/profiles/local.env",
        "docker/profiles/aws.env",
    ]
    text = "\n".join((repo / file).read_text() for file in files)
    known = [variable.name for variable in settings.VARIABLES.values()]
    assert len(known) > 20
    assert [name for name in known if not re.search(rf"\b{name}\b", text)] == []


def test_no_two_files_share_a_secret(repo: Path, env_file: Path, tmp_path: Path) -> None:
    script(repo, "make_env.py", "--file", str(tmp_path / "other"))
    first, second = values(env_file), values(tmp_path / "other")
    assert [name for name in SECRETS if first[name] == second[name]] == []


def test_existing_values_are_kept_and_missing_ones_added(repo: Path, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "FRUITS_BUCKET=team\n# mine\nUI_PASSWORD=chosen\n#AWS_PROFILE=later\nFRUITS_WEIGHTS=random:1"
    )
    file.chmod(0o644)
    assert script(repo, "make_env.py", "--file", str(file)).returncode == 0
    text = file.read_text()
    assert text.startswith("FRUITS_BUCKET=team\n# mine\nUI_PASSWORD=chosen\n#AWS_PROFILE=later\n")
    assert text.count("FRUITS_BUCKET=") == text.count("AWS_PROFILE=") == text.count("FRUITS_WEIGHTS=") == 1
    assert values(file)["POSTGRES_PASSWORD"]
    assert file.stat().st_mode & 0o777 == 0o600
    again = script(repo, "make_env.py", "--file", str(file))
    assert again.stdout.endswith("complete, kept as it is\n")
    assert file.read_text() == text


def test_a_missing_folder_is_an_error_of_one_line(repo: Path, tmp_path: Path) -> None:
    done = script(repo, "make_env.py", "--file", str(tmp_path / "no" / ".env"))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


CREDENTIALS = "[default]\naws_access_key_id = x\n"
CONFIG = "[profile team]\nregion = eu-west-3\n[sso-session corp]\n"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"COMPOSE_PROFILES": "cloud"},
            "COMPOSE_PROFILES is 'cloud'; set one of local, localstack, aws in .env",
        ),
        ({"COMPOSE_PROFILES": "aws"}, "profile aws needs a bucket; set FRUITS_BUCKET in .env"),
        ({"COMPOSE_PROFILES": "aws", "FRUITS_BUCKET": "b"}, "profile aws needs credentials"),
        (
            {"COMPOSE_PROFILES": "aws", "FRUITS_BUCKET": "b", "AWS_PROFILE": "team"},
            "AWS_PROFILE is 'team', but no folder has it",
        ),
        (
            {"COMPOSE_PROFILES": "aws", "FRUITS_BUCKET": "b", "AWS_PROFILE": "other", "AWS_DIR": "{aws}"},
            "AWS profile 'other' does not exist in {aws} (it has: default, team)",
        ),
        ({"FRUITS_IMAGES": "/no/such/folder"}, "FRUITS_IMAGES is '/no/such/folder', which is no folder"),
        ({"FRUITS_WEIGHTS_DIR": "weights"}, "FRUITS_WEIGHTS_DIR is 'weights'; write an absolute path"),
        # The engine is checked after these are right.
        (
            {"COMPOSE_PROFILES": "aws", "FRUITS_BUCKET": "b", "AWS_PROFILE": "team", "AWS_DIR": "{aws}"},
            "docker is not installed",
        ),
    ],
)
def test_a_wrong_setting_is_an_error_before_anything_starts(
    repo: Path, env_file: Path, tmp_path: Path, given: dict[str, str], reason: str
) -> None:
    aws = tmp_path / "aws"
    aws.mkdir()
    (aws / "credentials").write_text(CREDENTIALS)
    (aws / "config").write_text(CONFIG)
    variables = {name: value.format(aws=aws) for name, value in given.items()}
    done = script(repo, "preflight.py", "--env-file", str(env_file), PATH=str(tmp_path), **variables)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {reason.format(aws=aws)}")
    assert done.stderr.count("\n") == 1


def test_without_env_the_error_says_what_to_run(repo: Path, tmp_path: Path) -> None:
    done = script(repo, "preflight.py", "--env-file", str(tmp_path / ".env"))
    assert (
        done.stderr
        == f"error: {tmp_path / '.env'} cannot be read: No such file or directory; run make env first\n"
    )
