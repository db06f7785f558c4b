"""The ``aws`` command of a node, which has ``aws s3 cp`` only.

The file runs as a script and imports only boto3, so it works in any environment.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

USAGE_ERROR = 252  # the AWS CLI's exit code for a command line that it cannot parse


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        sys.stderr.write(
            f"aws: local EMR has only `aws s3 cp [--recursive] [--quiet] SOURCE TARGET`: {message}\n"
        )
        sys.exit(USAGE_ERROR)


def main(argv: list[str]) -> int:
    """Exit code: 0, or 1 when a copy failed; argparse itself exits with 252."""
    parser = Parser(prog="aws", add_help=False, allow_abbrev=False)
    parser.add_argument("service", choices=["s3"])
    parser.add_argument("command", choices=["cp"])
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--recursive", action="store_true")
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--only-show-errors", action="store_true")
    parser.add_argument("--no-progress", action="store_true")
    parser.add_argument("--region")
    args = parser.parse_args(argv)
    remote = [value.startswith("s3://") for value in (args.source, args.target)]
    if not any(remote):
        parser.error("one of SOURCE and TARGET must be s3://")
    if args.recursive and "-" in (args.source, args.target):
        parser.error("--recursive and - do not go together")
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    quiet = args.quiet or args.only_show_errors
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=32)
    try:
        s3 = boto3.client("s3", config=config, region_name=args.region)
        jobs = plan(s3, args.source, args.target, args.recursive)
        with ThreadPoolExecutor(8) as pool:
            for source, target in pool.map(lambda job: copy(s3, *job), jobs):
                if not quiet and target != "-":
                    print(f"copy: {source} to {target}")
    except (ClientError, BotoCoreError, Boto3Error, OSError) as error:
        sys.stderr.write(f"fatal error: {error}\n")
        return 1
    return 0


def plan(s3: Any, source: str, target: str, recursive: bool) -> list[tuple[str, str]]:
    """Source and target of each single copy.

    Raises FileNotFoundError for a missing folder, PermissionError for a key that leads out of the target.
    """
    if not recursive:
        name = source.rsplit("/", 1)[-1]
        local_folder = not target.startswith("s3://") and target != "-" and Path(target).is_dir()
        if target.endswith("/") or local_folder:
            target = f"{target.rstrip('/')}/{name}"
        elif target.startswith("s3://") and target.count("/") == 2:
            target = f"{target}/{name}"
        return [(source, target)]
    if source.startswith("s3://"):
        bucket, _, prefix = source[5:].partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix else ""
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        names = [
            item["Key"]
            for page in pages
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")
        ]
        for key in names:  # a key must not lead out of the target directory
            if ".." in key[len(prefix) :].split("/"):
                raise PermissionError(f"refused: {key} has .. in it")
        return [(f"s3://{bucket}/{key}", f"{target.rstrip('/')}/{key[len(prefix) :]}") for key in names]
    root = Path(source)
    if not root.is_dir():
        raise FileNotFoundError(f"no such directory: {source}")
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return [(str(p), f"{target.rstrip('/')}/{p.relative_to(root).as_posix()}") for p in files]


def copy(s3: Any, source: str, target: str) -> tuple[str, str]:
    """Copies one object or file, ``-`` being stdin or stdout; returns its arguments."""
    if source.startswith("s3://") and target.startswith("s3://"):
        bucket, _, key = source[5:].partition("/")
        to_bucket, _, to_key = target[5:].partition("/")
        s3.copy({"Bucket": bucket, "Key": key}, to_bucket, to_key)
    elif source.startswith("s3://"):
        bucket, _, key = source[5:].partition("/")
        if target == "-":
            body = s3.get_object(Bucket=bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(1 << 20):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        else:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, key, target)
    else:
        bucket, _, key = target[5:].partition("/")
        if source == "-":
            s3.upload_fileobj(sys.stdin.buffer, bucket, key)
        else:
            s3.upload_file(source, bucket, key)
    return source, target


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
