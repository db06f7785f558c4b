"""The operations that obstore sends to S3, recorded by S3: they are those of the policies' table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

import obstore
import pytest
from action_tables import OBSTORE, S3_ACTIONS
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from obstore.store import S3Store
from template_stack import REGION
from werkzeug.serving import make_server

# Above obstore's size of a part, 5 MiB.
LARGE = bytes(6 * 1024 * 1024)


class Recorder:
    """An S3 that records the operations of its requests."""

    def __init__(self) -> None:
        self.operations: set[str] = set()
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.operations.add(operation_of(environ))
        return self._app(environ, start_response)


def operation_of(environ: dict[str, Any]) -> str:
    """By https://docs.aws.amazon.com/AmazonS3/latest/API/API_Operations_Amazon_Simple_Storage_Service.html"""
    method, query = environ["REQUEST_METHOD"], parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    key = environ["PATH_INFO"].lstrip("/").partition("/")[2]
    known: dict[tuple[str, bool], Callable[[], str]] = {
        ("GET", False): lambda: "ListObjectsV2" if "list-type" in query else "?",
        ("GET", True): lambda: "GetObject",
        ("HEAD", True): lambda: "HeadObject",
        ("DELETE", True): lambda: "AbortMultipartUpload" if "uploadId" in query else "DeleteObject",
        ("POST", False): lambda: "DeleteObjects" if "delete" in query else "?",
        ("POST", True): lambda: "CreateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload",
        ("PUT", False): lambda: "CreateBucket",
        ("PUT", True): lambda: "UploadPart" if "partNumber" in query else "PutObject",
    }
    operation = known[method, bool(key)]()
    assert operation != "?", f"{method} {environ['PATH_INFO']}?{environ['QUERY_STRING']}"
    return operation


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[Recorder, S3Store]]:
    kept = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("AWS_")}
    recorder = Recorder()
    server = make_server("127.0.0.1", 0, recorder, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        store = S3Store(
            "recorded",
            region=REGION,
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key_id="test",
            secret_access_key="test",
            client_options={"allow_http": True},
        )
        make_bucket(server.server_port)
        yield recorder, store
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        os.environ.update(kept)


def make_bucket(port: int) -> None:
    import boto3

    session = boto3.Session("test", "test", region_name=REGION)
    s3 = session.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    s3.create_bucket(Bucket="recorded", CreateBucketConfiguration={"LocationConstraint": REGION})


USES: dict[str, Callable[[S3Store], Any]] = {
    "delete": lambda store: obstore.delete(store, "there"),
    "get": lambda store: obstore.get(store, "there").bytes(),
    "get_range": lambda store: obstore.get_range(store, "there", start=0, end=2),
    "head": lambda store: obstore.head(store, "there"),
    "list": lambda store: [meta for batch in obstore.list(store, prefix="th") for meta in batch],
    "open_reader": lambda store: obstore.open_reader(store, "there").read(),
    "put": lambda store: (obstore.put(store, "small", b"x"), obstore.put(store, "large", LARGE)),
}


def test_every_function_of_the_table_is_tried() -> None:
    assert sorted(USES) == sorted(OBSTORE)


@pytest.mark.parametrize("name", sorted(USES))
def test_obstore_asks_for_what_the_table_says(recorder: tuple[Recorder, S3Store], name: str) -> None:
    heard, store = recorder
    obstore.put(store, "there", b"some bytes")
    heard.operations.clear()
    USES[name](store)
    assert heard.operations
    actions = {
        action for operation in heard.operations for action in S3_ACTIONS.get(operation, [f"s3:{operation}"])
    }
    # A part is taken back only when another one fails.
    assert actions == set(OBSTORE[name]) - {"s3:AbortMultipartUpload"}


def test_large_objects_go_in_parts(recorder: tuple[Recorder, S3Store]) -> None:
    heard, store = recorder
    heard.operations.clear()
    obstore.put(store, "large", LARGE)
    assert heard.operations == {"CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"}
