"""A proxy between a client and the local AWS that injects faults.

    with FaultyAws() as faulty:
        faulty.upstream = endpoint
        faulty.add(Refuse(THROTTLED, "DescribeStep", times=3))
        faulty.add(Refuse(EXPIRED, after="AddJobFlowSteps"))
        faulty.add(EndCluster("INSTANCE_FAILURE", "…", "DescribeStep"))
        faulty.add(LoseAnswer("PUT", path="features/shard-00003"))

Calls that no fault catches pass through unchanged, their bodies as streams. A fault catches calls by name
(EMR's ``DescribeStep``, SNS's ``Publish``, S3's ``PUT``) and, for S3, by path; the fault that was added first
is tried first. ``calls`` lists all calls, and ``caught`` of a fault counts those that it has caught, by name.
Faults may be added and removed while clients work. The kinds of faults are in fault_kinds.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_CHUNK = 1 << 16
# Of one connection, not of what is said over it.
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection", "te", "upgrade"}
_CREDENTIAL = re.compile(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/aws4_request")


@dataclass(frozen=True)
class Call:
    """One request; ``service`` is the one that it is signed for, ``body`` None where it is a stream."""

    service: str
    name: str
    body: bytes | None = None
    path: str = "/"  # with its query; of S3: /<bucket>/<key>
    ports: tuple[int, int] = (0, 0)  # of the connection: the caller's, on this machine, and the proxy's

    @property
    def values(self) -> dict[str, Any]:
        """The parameters of a JSON call."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    length: int | None = None  # what the header says, where it is not that of the body


@dataclass
class Fault:
    """A fault, and which calls it catches: those of ``names`` (all, without any) to ``service``.

    ``path`` is a pattern that is searched for in the call's path. ``after`` names a call that must have
    passed before; ``skip`` so many calls pass, then ``times`` are caught (all, when None). ``lifts_at``
    (name, n): the n-th call of that name that would be caught passes, and all from then on.
    """

    names: tuple[str, ...] = ()
    service: str = ""
    path: str = ""
    after: str = ""
    skip: int = 0
    times: int | None = None
    lifts_at: tuple[str, int] | None = None
    caught: Counter[str] = field(default_factory=Counter, init=False)
    _seen: int = field(default=0, init=False)
    _lifted: bool = field(default=False, init=False)

    def catches(self, call: Call, passed: set[str]) -> bool:
        if (self.service and call.service != self.service) or (self.names and call.name not in self.names):
            return False
        if self.path and not re.search(self.path, urllib.parse.unquote(call.path)):
            return False
        if self._lifted or (self.after and self.after not in passed):
            return False
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.caught.total() >= self.times):
            return False
        if self.lifts_at and self.lifts_at == (call.name, self.caught[call.name] + 1):
            self._lifted = True
            return False
        self.caught[call.name] += 1
        return True

    def serve(self, call: Call, exchange: Exchange) -> None:
        """Handle a call that is caught."""
        raise NotImplementedError


# EMR has another final state for clusters that end for any other reason.
_REQUESTED_ENDS = ("USER_REQUEST", "ALL_STEPS_COMPLETED")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # workers read many objects at once


class FaultyAws:
    """The proxy; serves from ``with`` on, on a free port of this machine."""

    def __init__(self, upstream: str = "", region: str = "eu-west-3") -> None:
        """``upstream``: URL of the local AWS; may be set later, and changed when it has moved."""
        self.upstream = upstream
        self.region = region
        self.calls: list[Call] = []
        self.reasons: dict[str, tuple[str, str]] = {}
        self.errors: list[Exception] = []
        self._faults: list[Fault] = []
        self._passed: set[str] = set()
        self._lock = threading.Lock()
        handler = type("Handler", (Exchange,), {"aws": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyAws:
        threading.Thread(target=self._server.serve_forever, name="faulty-aws", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, fault: Fault) -> Fault:
        with self._lock:
            self._faults.append(fault)
        return fault

    def remove(self, fault: Fault) -> None:
        with self._lock:
            self._faults.remove(fault)

    def lift(self) -> None:
        """Remove all faults; the list of calls and the reasons for ends stay."""
        with self._lock:
            self._faults.clear()

    def clear(self) -> None:
        """Remove all faults, the list of calls and the reasons for ends."""
        with self._lock:
            self._faults.clear()
            self._passed.clear()
            self.calls.clear()
            self.reasons.clear()
            self.errors.clear()

    def fault_for(self, call: Call) -> Fault | None:
        with self._lock:
            fault = next((fault for fault in self._faults if fault.catches(call, self._passed)), None)
            self.calls.append(call)
        return fault

    def has_passed(self, call: Call) -> None:
        with self._lock:
            self._passed.add(call.name)

    # Calls of the faults and of tests, past all faults.

    def ask(self, name: str, **values: Any) -> dict[str, Any]:
        """The answer of EMR to a call that no fault can catch."""
        answer = self.forward(Call("elasticmapreduce", name, json.dumps(values).encode()))
        return json.loads(answer.body or b"{}")

    def state(self, cluster_id: str) -> str:
        return self.ask("DescribeCluster", ClusterId=cluster_id)["Cluster"]["Status"]["State"]

    def forward(self, call: Call) -> Answer:
        """The answer of EMR, with the reasons of ends that faults have made."""
        connection = self.connection()
        try:
            headers = {
                "X-Amz-Target": f"ElasticMapReduce.{call.name}",
                "Content-Type": "application/x-amz-json-1.1",
                # The local AWS reads the region from it, and checks no key.
                "Authorization": f"AWS4-HMAC-SHA256 Credential=test/20260101/{self.region}"
                "/elasticmapreduce/aws4_request",
            }
            connection.request("POST", "/", call.body, headers)
            response = connection.getresponse()
            body = self.amended(response.read())
            return Answer(response.status, [("Content-Type", "application/x-amz-json-1.1")], body)
        finally:
            connection.close()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urllib.parse.urlsplit(self.upstream).netloc, timeout=600)

    def amended(self, body: bytes) -> bytes:
        """The body of an answer, with the reasons of ends that faults have made."""
        if not any(cluster_id.encode() in body for cluster_id in self.reasons):
            return body
        values = json.loads(body)
        for cluster in [values.get("Cluster"), *values.get("Clusters", [])]:
            if cluster and cluster["Id"] in self.reasons:
                code, message = self.reasons[cluster["Id"]]
                cluster["Status"]["StateChangeReason"] = {"Code": code, "Message": message}
                if cluster["Status"]["State"] == "TERMINATED" and code not in _REQUESTED_ENDS:
                    cluster["Status"]["State"] = "TERMINATED_WITH_ERRORS"
        return json.dumps(values).encode()


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer, with the actions that faults consist of."""

    aws: FaultyAws
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """No access log."""

    def _serve(self) -> None:
        target = self.headers.get("X-Amz-Target", "")
        credential = _CREDENTIAL.search(self.headers.get("Authorization", ""))
        service = credential[1] if credential else ""
        name, body = target.rpartition(".")[2], None
        if service and service != "s3":  # small, and it may hold the name of the call
            body = b"".join(self._request_body())
            name = name or urllib.parse.parse_qs(body.decode(errors="replace")).get("Action", [""])[0]
        self._body_is_read = body is not None
        call = Call(service, name or self.command, body, self.path, self._ports())
        fault = self.aws.fault_for(call)
        try:
            if fault:
                fault.serve(call, self)
            else:
                self.pass_on(call)
        except OSError:  # one end is gone: the other notices as on a real network
            self.drop()
        except Exception as error:  # the fault itself failed: its trial proves nothing
            self.aws.errors.append(error)
            self.drop()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _ports(self) -> tuple[int, int]:
        return self.client_address[1], self.connection.getsockname()[1]

    # Actions of a fault.

    def discard_request(self) -> None:
        """Read the rest of the request and send nothing to AWS."""
        for _ in () if self._body_is_read else self._request_body():
            pass

    def complete(self, call: Call) -> Answer:
        """AWS's whole answer; AWS has executed the call."""
        connection = self.aws.connection()
        try:
            response = self._forwarded(call, connection)
            headers, body = _end_to_end(response), response.read()
            length = response.getheader("Content-Length") if self.command == "HEAD" else None
            if call.service == "elasticmapreduce":
                body = self.aws.amended(body)
            return Answer(response.status, headers, body, int(length) if length else None)
        finally:
            connection.close()

    def send(self, answer: Answer) -> None:
        """Answer the caller, with the date of the answer if it has one."""
        if any(key.lower() == "date" for key, _ in answer.headers):
            self.send_response_only(answer.status)
        else:
            self.send_response(answer.status)
        for key, value in answer.headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def drop(self) -> None:
        """Reset the connection."""
        with suppress(OSError):
            self.wfile.flush()
            # A linger of 0 seconds sends RST in place of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        self.close_connection = True

    def pass_on(self, call: Call) -> None:
        """As if there were no fault."""
        if call.service == "elasticmapreduce":
            self.send(self.complete(call))
            return
        connection = self.aws.connection()
        try:
            self._stream(self._forwarded(call, connection))
        finally:
            connection.close()

    def _forwarded(self, call: Call, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        for key, value in self.headers.items():
            if key.lower() not in _HOP:
                connection.putheader(key, value)
        if chunked:
            connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for block in [call.body] if call.body is not None else self._request_body():
            if block:
                connection.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
        if chunked:
            connection.send(b"0\r\n\r\n")
        response = connection.getresponse()
        self.aws.has_passed(call)  # before the client has the answer: it may send the next call at once
        return response

    def _request_body(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (block := self.rfile.read(min(left, _CHUNK))):
            left -= len(block)
            yield block

    def _stream(self, response: http.client.HTTPResponse) -> None:
        self.send_response(response.status)
        for key, value in _end_to_end(response):
            self.send_header(key, value)
        empty = self.command == "HEAD" or response.status in (204, 304)
        length = response.getheader("Content-Length")
        if length is not None:
            self.send_header("Content-Length", length)
        elif not empty:  # its end is that of the connection
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while not empty and (block := response.read(_CHUNK)):
            self.wfile.write(block)


def _end_to_end(response: http.client.HTTPResponse) -> list[tuple[str, str]]:
    """Headers to pass on; the proxy sets length, server and date itself."""
    left_out = {*_HOP, "content-length", "server", "date"}
    return [(key, value) for key, value in response.getheaders() if key.lower() not in left_out]
