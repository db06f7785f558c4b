"""Reads, writes and lists objects of ``s3://`` and ``file://`` alike, through obstore.

Spark needs no S3 jar, and the same code runs on a laptop and on a cluster. A put is atomic on
both: a reader sees the whole object or none.

Credentials come from the ``S3Access`` that the caller passes (the pipeline passes the Airflow
connection's), else from obstore's own chain (environment, instance profile). ``AWS_ENDPOINT_URL_S3``
and ``AWS_ENDPOINT_URL`` are honoured.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import LocalStore, S3Store

from image_features.errors import (
    Damaged,
    Interrupted,
    InvalidKey,
    JobError,
    NotFound,
    StorageError,
    first_line,
)

# Eight retries end soon where errors come quickly, as from a wrong endpoint. The timeout is for calls that
# hang; it includes any pause of the process, so a worker that was paused for a minute needs more than that.
_RETRIES: Any = {"max_retries": 8, "retry_timeout": timedelta(minutes=3)}

_LISTING_ATTEMPTS = 3  # of a listing whose response breaks off

# The parquet footer of a shard is a few KiB; one range request of this size reads it.
_FOOTER_BYTES = 64 * 1024

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_ACTIONS = {
    "read": "s3:GetObject",
    "look up": "s3:GetObject",
    "write": "s3:PutObject",
    "delete": "s3:DeleteObject",
    "list": "s3:ListBucket",
}


# What to do about S3's codes of status 403 that are no matter of a policy.
_ADVICE = {
    "RequestTimeTooSkewed": "; this machine's clock is wrong: set it, for example by NTP",
    "InvalidAccessKeyId": "; check the key and the secret of the credentials in use",
    "SignatureDoesNotMatch": "; check the key and the secret of the credentials in use",
}


@dataclass(frozen=True)
class S3Access:
    """How to reach S3: region, endpoint and an obstore credential provider, each optional.

    ``request_payer``: the caller pays for its requests, which a requester-pays bucket demands.
    """

    region: str | None = None
    endpoint_url: str | None = None
    credential_provider: Any = None
    request_payer: bool = False


@dataclass(frozen=True)
class StoredObject:
    """One object of a listing."""

    key: str  # relative to the storage
    size: int  # bytes
    written: datetime  # S3 gives whole seconds
    version: str = ""  # S3's ETag


def normalise_uri(uri: str | os.PathLike[str]) -> str:
    """Return ``uri`` as ``s3://<bucket>[/<prefix>]`` or ``file:///<path>``, without a trailing slash.

    Plain paths become absolute. ``file:/<path>``, as Java and Spark write it, is the same as
    ``file:///<path>``. Raises JobError for everything else, and for a prefix that no object can be read from.
    """
    try:
        text = uri if isinstance(uri, str) else os.fsencode(uri).decode()
        text.encode()
    except UnicodeError:
        raise JobError(f"the path {os.fsencode(uri)!r} is not UTF-8; rename it") from None
    if not text:
        raise JobError("an empty path was given where s3://, file:// or a folder is expected")
    if "\0" in text:
        raise JobError(f"{text!r} has a NUL character, which no path has")
    if text.removeprefix("s3://").startswith("arn:"):
        raise JobError(
            f"{text!r} is an ARN; give an access point by its alias, s3://<name>-s3alias/<prefix>, and "
            "a bucket by its name"
        )
    if text.startswith("s3://"):
        return _s3_uri(text)
    if text.startswith("file:/"):
        return local_uri(_file_path(text))
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() in ("s3", "s3a", "s3n"):
        rest = text[scheme.end() :].lstrip("/")
        raise JobError(f"{text!r}: only s3://, file:// and plain paths are supported; write s3://{rest}")
    if scheme and (scheme[1].lower() == "file" or text[scheme.end() :].startswith("/")):
        raise JobError(f"{text!r}: only s3://, file:// and plain paths are supported")
    return local_uri(text)


def _s3_uri(text: str) -> str:
    bucket, _, key = text.removeprefix("s3://").rstrip("/").partition("/")
    if not bucket:
        raise JobError(f"{text!r} names no bucket; expected s3://<bucket>/<prefix>")
    if not _BUCKET.fullmatch(bucket):
        raise JobError(f"{text!r}: {bucket!r} is not the name of a bucket; expected s3://<bucket>/<prefix>")
    if violation := path_violation(key) if key else None:
        raise JobError(
            f"{text!r} has {violation}, which no prefix here may have; expected s3://<bucket>/<prefix>"
        )
    return f"s3://{bucket}/{key}" if key else f"s3://{bucket}"


def path_violation(key: str) -> str | None:
    """Why ``key`` is not a path that obstore can read: one of its parts; None if it is one."""
    parts = key.split("/")
    if "" in parts:
        return "an empty part ('//')"
    if dots := {".", ".."} & set(parts):
        return f"a part {min(dots)!r}"
    if _CONTROL.search(key):
        return "a control character"
    return None


def _file_path(text: str) -> str:
    path = text.removeprefix("file:")
    if path.startswith("//"):
        host, slash, path = path.removeprefix("//").partition("/")
        if not slash:
            raise JobError(f"{text!r} names no path; expected file:///<absolute path>")
        if host not in ("", "localhost"):
            raise JobError(f"{text!r} names a host; expected file:///<absolute path>")
        path = f"/{path}"
    return path


def local_uri(path: str) -> str:
    """The ``file://`` URI of a local path, which may be relative or begin with ``~``.

    File names are bytes, which this project reads as UTF-8 whatever the locale.
    """
    try:
        absolute = Path(os.fsdecode(path.encode())).expanduser().absolute()
        return f"file://{os.fsencode(absolute).decode()}"
    except RuntimeError as error:  # of expanduser
        raise JobError(f"cannot open {path}: {first_line(error)}") from None
    except UnicodeDecodeError:  # of the working folder
        raise JobError(f"the path {os.fsencode(absolute)!r} is not UTF-8; rename it") from None


def local_path(uri: str) -> Path:
    """The local path of a ``file://`` URI that normalise_uri returned."""
    return Path(os.fsdecode(uri.removeprefix("file://").encode()))


def join_uri(uri: str, *parts: str) -> str:
    """Append path segments to a URI."""
    return "/".join([uri.rstrip("/"), *parts])


class Storage:
    """The objects below one URI. Keys are relative to it."""

    def __init__(
        self, uri: str | os.PathLike[str], access: S3Access | None = None, *, create: bool = False
    ) -> None:
        """Open ``uri``; with ``create``, a local folder that is missing is created.

        Raises NotFound for a local folder that does not exist, JobError for a URI that cannot be used.
        """
        self.uri = normalise_uri(uri)
        self._on_s3 = self.uri.startswith("s3://")
        access = access or S3Access()
        try:
            if not self._on_s3:
                root = local_path(self.uri)
                if create:
                    root.mkdir(parents=True, exist_ok=True)
                elif not root.is_dir():
                    raise NotFound(f"cannot open {self.uri}: it does not exist, or is no folder")
                self._store: Any = LocalStore(root, mkdir=create)
                self._prefix = ""
            else:
                bucket, _, key = self.uri.removeprefix("s3://").partition("/")
                self._store = _s3_store(bucket, access)
                self._prefix = f"{key}/" if key else ""
        except (BaseError, OSError, ValueError) as error:
            raise JobError(f"cannot open {self.uri}: {first_line(error)}") from error

    def uri_of(self, key: str) -> str:
        return join_uri(self.uri, key) if key else self.uri

    def get(self, key: str) -> pa.Buffer:
        """Read a whole object, without a copy. Raises NotFound, or StorageError when it cannot be read."""
        return self.get_versioned(key)[0]

    def get_versioned(self, key: str) -> tuple[pa.Buffer, str]:
        """Like get, with the object's version as a listing gives it."""
        with self._explain("read", key):
            response = obstore.get(self._store, self._prefix + key)
            return pa.py_buffer(response.bytes()), response.meta["e_tag"] or ""

    @contextmanager
    def open(self, key: str) -> Iterator[pa.NativeFile]:
        """Open an object to read parts of it. Raises NotFound, or StorageError when it cannot be read."""
        with self._explain("read", key):
            file = obstore.open_reader(self._store, self._prefix + key, buffer_size=_FOOTER_BYTES)
            # pyarrow reads the attribute `closed`, which obstore's reader does not have.
            shim = SimpleNamespace(
                read=file.read, seek=file.seek, tell=file.tell, close=file.close, closed=False
            )
            with pa.PythonFile(shim, mode="r") as opened:
                yield opened

    def get_or_none(self, key: str) -> pa.Buffer | None:
        """Like get, but None when the object does not exist."""
        try:
            return self.get(key)
        except NotFound:
            return None

    def parquet_metadata(self, key: str, size: int) -> dict[str, str]:
        """Return the key-value metadata of a parquet object from its last bytes.

        ``size`` is the object's size in bytes, as a listing gives it. Raises Damaged when the object is
        not a whole parquet file.
        """
        if not size:  # an empty range is no valid request
            raise Damaged(f"{self.uri_of(key)} is not a whole parquet file: it is empty")
        start = max(0, size - _FOOTER_BYTES)
        with self._explain("read", key):
            tail = pa.py_buffer(obstore.get_range(self._store, self._prefix + key, start=start, end=size))
        try:
            # The footer is at the end; parsing it needs nothing that comes before.
            metadata = pq.read_metadata(pa.BufferReader(tail)).metadata or {}
        except (pa.ArrowInvalid, OSError) as error:
            raise Damaged(f"{self.uri_of(key)} is not a whole parquet file: {first_line(error)}") from error
        return {k.decode(): v.decode(errors="replace") for k, v in metadata.items()}

    def put(self, key: str, data: bytes | pa.Buffer | Path, *, content_type: str | None = None) -> None:
        """Write a whole object (of a Path: that file's content), replacing the one that was there.

        ``content_type`` is the header that S3 sends to a browser; a local folder stores none.
        """
        # pyarrow's buffers export signed bytes; obstore accepts unsigned ones only.
        body = data if isinstance(data, bytes | Path) else memoryview(data).cast("B")
        with self._explain("write", key):
            attributes: Any = {"Content-Type": content_type} if content_type and self._on_s3 else None
            obstore.put(self._store, self._prefix + key, body, attributes=attributes)

    def put_if(self, key: str, data: bytes, replaces: str | None = None) -> bool:
        """Write an object if there is none, or, on S3 only, if its version is ``replaces``.

        Returns whether the object was written.
        """
        mode: Any = {"e_tag": replaces} if replaces else "create"
        with self._explain("write", key):
            try:
                obstore.put(self._store, self._prefix + key, data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def exists(self, key: str) -> bool:
        try:
            with self._explain("look up", key):
                obstore.head(self._store, self._prefix + key)
        except NotFound:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[StoredObject]:
        """All objects below ``prefix`` (a folder, without its trailing slash), in no particular order."""
        full = (self._prefix + prefix).rstrip("/")
        last: str | None = None
        # obstore retries a page that S3 refuses, but not one whose response breaks off. S3 lists in order, so
        # the listing can continue after the last object. A local folder has no order, and never breaks off.
        attempts = _LISTING_ATTEMPTS if self._on_s3 else 1
        while attempts:
            attempts -= 1
            try:
                with self._explain("list", prefix):
                    for batch in obstore.list(self._store, prefix=f"{full}/" if full else None, offset=last):
                        for meta in batch:
                            last = meta["path"]
                            key = last[len(self._prefix) :]
                            yield StoredObject(key, meta["size"], meta["last_modified"], meta["e_tag"] or "")
                return
            except Interrupted:
                if not attempts:
                    raise

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that does not exist is no error."""
        for key in keys:
            with suppress(NotFound), self._explain("delete", key):
                obstore.delete(self._store, self._prefix + key)

    @contextmanager
    def _explain(self, verb: str, key: str) -> Iterator[None]:
        """Turn obstore's errors, whose text has many lines, into a JobError of one line."""
        try:
            yield
        except FileNotFoundError as error:  # obstore's NotFoundError derives from it
            raise NotFound(f"cannot {verb} {self.uri_of(key)}: it does not exist") from error
        except InvalidPathError as error:
            raise InvalidKey(f"cannot {verb} {self.uri_of(key)}: {first_line(error)}") from error
        except PermissionDeniedError as error:
            response = _Response.of(error)
            code = response.code or "AccessDenied"
            said = response.text if response.code else "S3 says AccessDenied"
            where = f"cannot {verb} {self.uri_of(key)}: {said}"
            if code == "InvalidObjectState":  # which no retry changes
                raise JobError(
                    f"{where}; the object is archived: restore it, or take it out of the source"
                ) from error
            advice = _ADVICE.get(code, "")
            if "Denied" in code:
                advice = (
                    f"; allow {_ACTIONS[verb]} to the role that asked, in its policy, the bucket's and its "
                    "KMS key's"
                )
            raise StorageError(f"{where}{advice}", code=code) from error
        except (BaseError, OSError) as error:
            response = _Response.of(error)
            kind = Interrupted if response.interrupted else StorageError
            raise kind(f"cannot {verb} {self.uri_of(key)}: {response.text}", code=response.code) from error


@dataclass(frozen=True)
class _Response:
    """What S3 answered to a request that failed.

    obstore's exceptions carry only a text: no status, no code, no body. So that text is parsed here, once.
    """

    text: str  # one line
    code: str | None  # None: S3 sent none
    interrupted: bool

    @classmethod
    def of(cls, error: BaseException) -> _Response:
        report, line = str(error), first_line(error)
        interrupted = "response body" in line
        body = re.search(r"<Code>(\w+)</Code>(?:.*?<Message>([^<]*)</Message>)?", report, re.DOTALL)
        if not body:
            return cls(re.sub(r", max_retries: \d+, retry_timeout: \w+ *", " ", line), None, interrupted)
        text = f"S3 says {body[1]}" + (f" ({body[2].strip()})" if body[2] else "")
        retries = re.search(r"after (\d+) retries", report)
        return cls(text + (f", after {retries[1]} retries" if retries else ""), body[1], interrupted)


def _s3_store(bucket: str, access: S3Access) -> Any:
    endpoint = (
        access.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = access.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    options: dict[str, Any] = {}
    if region:
        options["region"] = region
    if endpoint:
        options["endpoint"] = endpoint
        if endpoint.startswith("http://"):
            options["client_options"] = {"allow_http": True}
    if access.request_payer:
        options["request_payer"] = True
    if access.credential_provider is not None:
        options["credential_provider"] = access.credential_provider
    return S3Store(bucket, retry_config=_RETRIES, **options)
