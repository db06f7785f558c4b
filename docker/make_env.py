#!/usr/bin/env python3
"""Writes .env: secrets, ports and folders of docker-compose.yaml. Existing values are kept.

    python3 docker/make_env.py            # .env of the project
    python3 docker/make_env.py --file /tmp/.env

Needs only Python 3.9. Exit codes: 0 done, 2 the file cannot be written or read.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "spark_jobs"))  # nothing is installed where this runs

from image_features.arguments import BAD_INPUT, ERROR, Parser  # noqa: E402 - needs the path above

WEIGHTS_SERVER = "https://storage.googleapis.com/tensorflow/keras-applications/"
_NAME = re.compile(r"#?\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=")


def fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def weights() -> str:
    """``imagenet`` if Keras' weights can be downloaded, otherwise ``random:0`` and a warning in capitals."""
    try:
        request = urllib.request.Request(WEIGHTS_SERVER, method="HEAD")
        with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - a constant https address
            return "imagenet"
    except OSError:
        print(
            "THE IMAGENET WEIGHTS CANNOT BE DOWNLOADED: .env SAYS FRUITS_WEIGHTS=random:0, THE FEATURES WILL "
            "MEAN LITTLE. For real ones name a folder FRUITS_WEIGHTS_DIR, and FRUITS_WEIGHTS=/weights/<file>."
        )
        return "random:0"


SECTIONS: tuple[tuple[str, dict[str, str | Callable[[], str]]], ...] = (
    (
        "The AWS to work with: local, localstack or aws (a real account).",
        {"COMPOSE_PROFILES": "local"},
    ),
    (
        "User and password of Airflow's UI, read at each start.",
        {"UI_USER": "admin", "UI_PASSWORD": lambda: secrets.token_urlsafe(15)},
    ),
    (
        "Ports on 127.0.0.1: Airflow's UI; the local AWS, or LocalStack; the EMR beside LocalStack.",
        {"AIRFLOW_PORT": "8080", "LOCAL_AWS_PORT": "4566", "LOCAL_EMR_PORT": "4567"},
    ),
    (
        """\
Defaults of the trigger form. FRUITS_IMAGES is a folder of <label>/<image>, mounted as /images (empty: drawn
images); FRUITS_WEIGHTS_DIR is a folder of weights files, mounted as /weights. Paths are absolute, or begin
with ./ or ~/. Weights are imagenet (downloaded), /weights/<file> or random:<seed>. The user id FRUITS_UID
must be able to read these folders, and AWS_DIR below.""",
        {
            "FRUITS_IMAGES": "",
            "FRUITS_SOURCE": "/images",
            "FRUITS_WEIGHTS_DIR": "",
            "FRUITS_WEIGHTS": weights,
            "FRUITS_UID": lambda: str(os.getuid() or 10001),
        },
    ),
    (
        "Profile localstack. Tags after 4.14.0 need a token of https://app.localstack.cloud.",
        {"LOCALSTACK_TAG": "4.14.0", "LOCALSTACK_AUTH_TOKEN": ""},
    ),
    (
        """\
Profile aws: region and bucket; the folder of your AWS profiles (~/.aws) and the name of the profile, or
instead AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. docker/profiles/aws.env lists the other variables.""",
        # An empty AWS_PROFILE would name a profile without a name.
        {"FRUITS_REGION": "eu-west-3", "FRUITS_BUCKET": "", "AWS_DIR": "", "#AWS_PROFILE": "default"},
    ),
    (
        """\
Secrets, generated for this machine. PostgreSQL stores its password, and Airflow's connections need the
Fernet key: run `make reset` before you change one of these two.""",
        {
            "POSTGRES_PASSWORD": lambda: secrets.token_hex(24),
            "FERNET_KEY": fernet_key,
            "API_SECRET_KEY": lambda: secrets.token_hex(32),
            "JWT_SECRET": lambda: secrets.token_hex(32),
        },
    ),
)


def complete(text: str) -> str:
    """``text`` of a .env file, completed by the missing variables."""
    known = {match[1] for line in text.splitlines() if (match := _NAME.match(line))}
    parts = [text if text.endswith("\n") or not text else f"{text}\n"]
    for comment, variables in SECTIONS:
        missing = {name: value for name, value in variables.items() if name.lstrip("#") not in known}
        if missing:
            lines = [f"# {line}" for line in comment.splitlines()]
            lines += [f"{name}={value() if callable(value) else value}" for name, value in missing.items()]
            parts.append("\n".join(lines) + "\n")
    return "\n".join(part for part in parts if part)


def write(path: Path) -> bool:
    """Complete the file, readable by its owner only; False when nothing was missing. Raises OSError."""
    before = path.read_text() if path.exists() else ""
    after = complete(before)
    # Replaced atomically, so an interrupted write loses no secret. The file is never readable by others.
    part = path.with_name(f"{path.name}.part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(after)
    part.chmod(0o600)
    part.replace(path)
    return after != before


def main(argv: list[str] | None = None) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--file", type=Path, default=REPO / ".env", help="default: %(default)s")
    args = parser.parse_args(argv)
    try:
        changed = write(args.file)
    except (OSError, UnicodeDecodeError) as error:
        print(f"{ERROR}{args.file} cannot be written: {error}", file=sys.stderr)
        return BAD_INPUT
    print(f"{args.file}: {'written' if changed else 'complete, kept as it is'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
