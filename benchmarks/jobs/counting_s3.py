"""The local AWS's S3 on a free port of loopback. It counts its requests, and ``/_counts`` returns the counts.

It has no clusters, and keeps its objects in memory.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

from local_emr.server.address import endpoint_of, listen
from local_emr.server.app import http_server, quiet_logs
from local_emr.server.moto_setup import create_app

COUNTS = "/_counts"


class Counting:
    """WSGI middleware that counts the requests of each kind, and the bytes that are sent to S3."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == COUNTS:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._counts).encode()]
        with self._lock:
            self._counts[kind_of(environ["REQUEST_METHOD"], environ.get("QUERY_STRING", ""))] += 1
            self._counts["bytes sent"] += int(environ.get("CONTENT_LENGTH") or 0)
        return self._app(environ, start_response)


def kind_of(method: str, query: str) -> str:
    """The kind of a request in S3's price list: "LIST", "GET", "HEAD", "PUT", "POST", "DELETE"."""
    parameters = parse_qs(query, keep_blank_values=True)
    if method == "GET" and ("list-type" in parameters or "prefix" in parameters):
        return "LIST"
    return method


def main() -> None:
    quiet_logs()
    listener = listen("127.0.0.1", 0)
    server = http_server(Counting(create_app()), listener)
    print(endpoint_of(listener), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
