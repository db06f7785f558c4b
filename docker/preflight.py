#!/usr/bin/env python3
"""The checks of `make up`, before anything starts. Each problem is one line that says what to do.

    python3 docker/preflight.py

Needs only Python 3.9. Exit codes: 0 all checks pass, 2 one does not.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "spark_jobs"))  # nothing is installed where this runs

from image_features.arguments import BAD_INPUT, ERROR, Parser  # noqa: E402 - needs the path above

NEEDED_GB = 12
"""The size of the image, and the same again for its build."""

PROFILES = ("local", "localstack", "aws")


class Missing(Exception):
    """The stack lacks something that it needs. The message is one line for the user."""


def run(*command: str) -> str:
    """Output of a command. If it fails, raises Missing with its last line."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Missing(lines[-1] if lines else f"{' '.join(command)} failed")
    return done.stdout


def engine() -> dict[str, Any]:
    """`docker info`, as JSON. Raises Missing without an engine or without a recent compose."""
    if not shutil.which("docker"):
        raise Missing("docker is not installed; see https://docs.docker.com/engine/install/")
    try:
        info: dict[str, Any] = json.loads(run("docker", "info", "--format", "{{json .}}"))
    except Missing as error:
        raise Missing(f"no Docker engine answers: {error}; start it, then try again") from None
    if info.get("ServerErrors"):
        raise Missing(f"no Docker engine answers: {info['ServerErrors'][0]}; start it, then try again")
    try:
        version = run("docker", "compose", "version", "--short").strip().lstrip("v")
    except Missing:
        raise Missing("docker has no compose; install its plugin, 2.24 or later") from None
    if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < (2, 24):
        raise Missing(f"docker compose {version} is too old; install 2.24 or later")
    return info


def disk(info: dict[str, Any], image: str) -> None:
    """Checks the free space where the engine stores images. Less is needed if the image exists."""
    folder = Path(info.get("DockerRootDir") or "")
    if not folder.is_dir():  # the engine runs in a virtual machine
        return
    needed = NEEDED_GB if not run("docker", "image", "ls", "--quiet", image).strip() else 2
    free = shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise Missing(
            f"{free:.0f} GB are free in {folder}, {needed} are needed; `docker system prune` makes room"
        )


def settings(file: Path) -> dict[str, str]:
    """The variables that Compose uses: .env, overridden by the environment. Raises Missing."""
    values = {}
    try:
        text = file.read_text()
    except OSError as error:
        raise Missing(f"{file} cannot be read: {error.strerror}; run make env first") from None
    for line in text.splitlines():
        name, mark, value = line.partition("=")
        if mark and not line.lstrip().startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    return {**values, **os.environ}


def profile(values: dict[str, str]) -> None:
    """Checks that the profile exists, and that a real account has bucket and credentials."""
    name = values.get("COMPOSE_PROFILES", "")
    if name not in PROFILES:
        raise Missing(f"COMPOSE_PROFILES is {name!r}; set one of {', '.join(PROFILES)} in .env")
    if name != "aws":
        return
    if not values.get("FRUITS_BUCKET"):
        raise Missing("profile aws needs a bucket; set FRUITS_BUCKET in .env")
    aws_profile, folder = values.get("AWS_PROFILE"), values.get("AWS_DIR")
    if aws_profile:
        if not folder:
            raise Missing(f"AWS_PROFILE is {aws_profile!r}, but no folder has it; set AWS_DIR=~/.aws in .env")
        known = sorted(profiles_in(Path(folder).expanduser()))
        if aws_profile not in known:
            raise Missing(
                f"AWS profile {aws_profile!r} does not exist in {folder} "
                f"(it has: {', '.join(known) or 'none'}); "
                f"set AWS_PROFILE in .env, or create it: aws configure --profile {aws_profile}"
            )
    elif not values.get("AWS_ACCESS_KEY_ID") and not folder:
        raise Missing(
            "profile aws needs credentials; set AWS_DIR=~/.aws and AWS_PROFILE in .env, or AWS_* keys"
        )


def profiles_in(folder: Path) -> Iterator[str]:
    """Names of the profiles in an ``.aws`` folder."""
    for name in ("config", "credentials"):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(folder / name)
        except configparser.Error as error:
            raise Missing(f"{folder / name} cannot be read: {str(error).splitlines()[0]}") from None
        for section in parser.sections():
            kind, _, rest = section.partition(" ")
            if not rest or kind == "profile":
                yield rest or section


def folders(values: dict[str, str]) -> None:
    """Checks that the mounted folders exist: otherwise Docker would create an empty folder or a volume."""
    for name in ("FRUITS_IMAGES", "FRUITS_WEIGHTS_DIR", "AWS_DIR"):
        value = values.get(name)
        if not value:
            continue
        if not value.startswith(("/", "./", "../", "~/")):
            raise Missing(
                f"{name} is {value!r}; write an absolute path in .env, or one that begins with ./ or ~/"
            )
        if not (REPO / Path(value).expanduser()).is_dir():
            raise Missing(f"{name} is {value!r}, which is no folder; set it in .env")


def ports(config: dict[str, Any], compose: tuple[str, ...]) -> None:
    """Checks that the ports are free, except those that this stack uses already."""
    used = set()
    for line in run(*compose, "--profile", "*", "ps", "--format", "json").splitlines():
        used |= {int(port["PublishedPort"]) for port in json.loads(line).get("Publishers") or []}
    names = {"api-server": "AIRFLOW_PORT", "local-emr": "LOCAL_EMR_PORT"}
    for service, settings in config["services"].items():
        for port in settings.get("ports", []):
            number = int(port["published"])
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", number))
                except OSError:
                    if number in used:
                        continue
                    variable = names.get(service, "LOCAL_AWS_PORT")
                    raise Missing(f"port {number} is taken; set another {variable} in .env") from None


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--env-file", type=Path, default=REPO / ".env", help="default: %(default)s")
    args = parser.parse_args(argv)
    compose = ("docker", "compose", "--project-directory", str(REPO), "--env-file", str(args.env_file))
    try:
        values = settings(args.env_file)
        profile(values)
        folders(values)
        info = engine()
        config = json.loads(run(*compose, "config", "--format", "json"))
        disk(info, config["services"]["init"]["image"])
        ports(config, compose)
    except Missing as error:
        print(f"{ERROR}{error}", file=sys.stderr)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
