"""The S3 calls of a cluster: download a script, a file or an archive, upload a log."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError


class S3Error(Exception):
    """An object could not be read or written; the message names it."""


@lru_cache(maxsize=32)
def client(endpoint: str, region: str) -> Any:
    """An S3 client, which threads may share."""
    config = Config(
        s3={"addressing_style": "path"},
        max_pool_connections=32,
        retries={"max_attempts": 4},
        read_timeout=120,
    )
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=region,
        aws_access_key_id="local",
        aws_secret_access_key="local",  # noqa: S106 - the server accepts any key
        config=config,
    )


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key`` (or s3n, s3a); `#`, `?` and `%` are part of the key.

    Raises S3Error when it is not such a URI.
    """
    scheme, mark, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not mark or scheme not in ("s3", "s3n", "s3a") or not bucket:
        raise S3Error(f"not an s3:// URI: {uri}")
    return bucket, key


def fetch(s3: Any, uri: str, path: Path) -> None:
    """Downloads one object to ``path``; raises S3Error."""
    bucket, key = split_uri(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        s3.download_file(bucket, key, str(path))
    except (ClientError, BotoCoreError, OSError) as error:
        raise S3Error(f"cannot read {uri}: {error}") from error


def put_gzip(s3: Any, uri: str, data: bytes) -> None:
    """Writes ``data`` with gzip; raises S3Error."""
    bucket, key = split_uri(uri)
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=gzip.compress(data, 6), ContentType="application/x-gzip")
    except (ClientError, BotoCoreError) as error:
        raise S3Error(f"cannot write {uri}: {error}") from error
