"""What `docker compose` and `make up` say of a setting that is missing or wrong; nothing is started."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stack import ComposeStack


@pytest.fixture
def idle(repo: Path, tmp_path: Path) -> ComposeStack:
    """A stack that is not started."""
    return ComposeStack(repo, tmp_path, "fruit-features-test-idle", {})


def config(stack: ComposeStack) -> dict[str, Any]:
    return json.loads(stack.compose("config", "--format", "json").stdout)["services"]


def preflight(stack: ComposeStack, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(stack.repo / "docker" / "preflight.py"), "--env-file", str(stack.env_file)],
        env={**os.environ, "COMPOSE_PROJECT_NAME": stack.name, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_env_compose_says_what_to_do(repo: Path) -> None:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    command = ["docker", "compose", "--env-file", "/dev/null", "config"]
    done = subprocess.run(command, cwd=repo, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.strip().endswith("run make env first")


def test_a_taken_port_is_said_with_the_variable_to_set(idle: ComposeStack) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(idle.env["LOCAL_AWS_PORT"])))
        holder.listen()
        done = preflight(idle)
    taken = f"error: port {idle.env['LOCAL_AWS_PORT']} is taken; set another LOCAL_AWS_PORT in .env\n"
    assert (done.returncode, done.stderr) == (2, taken)


def test_an_engine_that_does_not_answer_is_said(idle: ComposeStack) -> None:
    done = preflight(idle, DOCKER_HOST="unix:///no/such/socket")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no Docker engine answers: ")
    assert done.stderr.count("\n") == 1


def test_nothing_is_wrong_with_what_make_env_wrote(idle: ComposeStack) -> None:
    assert preflight(idle).stderr == ""


def test_the_ports_of_the_stack_that_runs_are_its_own(stack: ComposeStack) -> None:
    assert preflight(stack).stderr == ""


def test_with_a_real_account_nothing_local_starts(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "aws").mkdir()
    given = {"FRUITS_BUCKET": "team", "AWS_PROFILE": "team", "AWS_DIR": str(tmp_path / "aws")}
    services = config(ComposeStack(repo, tmp_path, "idle", {"COMPOSE_PROFILES": "aws", **given}))
    assert set(services) == {"postgres", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
    environment = services["scheduler"]["environment"]
    assert (environment["AWS_PROFILE"], environment["FRUITS_BUCKET"]) == ("team", "team")
    # What is not given is not there, and so is no key or endpoint of a local AWS.
    assert {name for name in environment if name.startswith("AWS_")} == {"AWS_PROFILE"}
    (mount,) = [m for m in services["scheduler"]["volumes"] if m["target"] == "/home/fruits/.aws"]
    assert (mount["source"], mount["read_only"]) == (str(tmp_path / "aws"), True)


def test_a_local_profile_is_given_no_key_of_the_host(
    idle: ComposeStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "team")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of a real account")
    environment = config(idle)["scheduler"]["environment"]
    assert environment["AWS_SECRET_ACCESS_KEY"] == "local"
    assert "AWS_PROFILE" not in environment


def test_a_browser_reaches_reports_at_the_published_port(idle: ComposeStack) -> None:
    found = config(idle)["scheduler"]["environment"]["FRUITS_BROWSER_ENDPOINT_URL"]
    assert found == f"http://127.0.0.1:{idle.env['LOCAL_AWS_PORT']}"


def test_own_images_are_mounted_read_only(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "fruits").mkdir()
    stack = ComposeStack(repo, tmp_path, "idle", {"FRUITS_IMAGES": str(tmp_path / "fruits")})
    (mount,) = [m for m in config(stack)["scheduler"]["volumes"] if m["target"] == "/images"]
    assert (mount["type"], mount["source"], mount["read_only"]) == ("bind", str(tmp_path / "fruits"), True)
