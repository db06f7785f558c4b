"""What docker-compose.yaml and docker/Dockerfile give a container: no more than it needs, and no secret.

Read as files, so this runs where there is no Docker; tests/compose runs the containers themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|FERNET|ACCESS_KEY|CONN\b", re.IGNORECASE)
# Its image starts as root and takes rights of root for it; it runs in the profile of its name only.
AS_ITS_IMAGE_WANTS = "localstack"


@pytest.fixture(scope="module")
def services(repo: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load((repo / "docker-compose.yaml").read_text())["services"]
    assert len(found) > 8
    return found


@pytest.fixture(scope="module")
def instructions(repo: Path) -> list[tuple[str, str]]:
    """Of the Dockerfile: name and the rest, lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (repo / "docker/Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]  # type: ignore[misc]


def test_ports_are_open_on_loopback_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert len(ports) >= 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_no_service_can_gain_rights_or_reaches_the_host(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if name != AS_ITS_IMAGE_WANTS:
            assert service["cap_drop"] == ["ALL"], name
            assert service["read_only"] is True, name
        wider = {
            "privileged",
            "cap_add",
            "devices",
            "pid",
            "ipc",
            "network_mode",
            "userns_mode",
            "volumes_from",
        }
        assert wider & set(service) == set(), name
        assert service["mem_limit"], name
        mounted = [str(volume) for volume in service.get("volumes", [])]
        assert [volume for volume in mounted if "docker.sock" in volume or volume.startswith("/")] == [], name


def test_no_service_runs_as_root(
    services: dict[str, dict[str, Any]], instructions: list[tuple[str, str]]
) -> None:
    users = [rest for name, rest in instructions if name == "USER"]
    assert users[-1] == "fruits"
    ours = {name for name, service in services.items() if "FRUITS_IMAGE" in service["image"]}
    for name, service in services.items():
        user = service.get("user", "fruits" if name in ours else "root")
        assert (user.partition(":")[0] not in ("root", "0")) or name == AS_ITS_IMAGE_WANTS, name


def test_what_is_the_users_own_is_mounted_read_only(services: dict[str, dict[str, Any]]) -> None:
    """Folders of this machine come in by variables; all else are volumes of the stack."""
    for name, service in services.items():
        for volume in service.get("volumes", []):
            assert not volume.startswith("${") or volume.endswith(":ro"), f"{name}: {volume}"


def test_secrets_come_from_the_environment_file_and_have_no_default(
    services: dict[str, dict[str, Any]],
) -> None:
    found = 0
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            if not SECRET.search(variable) or variable.endswith("_FILE"):
                continue
            found += 1
            secret = re.search(r"\$\{(\w+):(\?|-\})", str(value))
            assert secret or value == '{"conn_type": "aws"}', f"{name}: {variable} has a value in the file"
    assert found > 10


def test_nothing_secret_is_in_the_image(repo: Path, instructions: list[tuple[str, str]]) -> None:
    """Neither as a variable of the build, which the history of an image shows, nor as a file."""
    variables = [rest for name, rest in instructions if name in ("ARG", "ENV", "LABEL")]
    assert variables
    assert [rest for rest in variables if SECRET.search(rest)] == []
    copied = [rest.split()[:-1] for name, rest in instructions if name in ("COPY", "ADD")]
    assert not {"ADD"} & {name for name, _ in instructions}, "ADD fetches and unpacks"
    assert not any(part in (".", "./", "*") or part.startswith(".env") for parts in copied for part in parts)
    ignored = (repo / ".dockerignore").read_text().splitlines()
    patterns = [line for line in ignored if line and not line.startswith("#")]
    assert patterns[0] == "*", "all that is not named stays out"
    assert "**/.env*" in patterns


def test_the_image_is_built_from_hashes(instructions: list[tuple[str, str]]) -> None:
    runs = " ".join(rest for name, rest in instructions if name == "RUN")
    assert "--require-hashes --requirement /requirements.txt" in re.sub(r"\s+", " ", runs)
    assert not re.search(r"curl|wget|\|\s*sh\b", runs)
