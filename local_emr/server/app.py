"""The server: moto's services behind the browser guard, an EMR that runs steps, and snapshots."""

from __future__ import annotations

import logging
import shutil
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from moto.emr.models import emr_backends
from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import BaseWSGIServer, make_server

from local_emr.emr.cluster import Cluster
from local_emr.emr.lifecycle import Worker
from local_emr.node import processes, s3
from local_emr.server import address, moto_setup
from local_emr.server.browser_guard import Guard, WSGIApp
from local_emr.state import snapshot
from local_emr.state.clusters import ClusterStore
from local_emr.state.objects import ObjectStore
from local_emr.state.roles import RoleStore

SNAPSHOT_SECONDS = 30.0
POLL_SECONDS = 0.05  # how soon the HTTP server notices that it is stopped


class LocalAws:
    """A local AWS that serves requests in threads of this process, between ``start`` and ``stop``.

    As a context manager it starts on entry and stops on exit. moto keeps its state in the process: one server
    runs at a time, others may follow, and each starts empty but for the state in its ``directory``.

    ``make_worker`` returns the worker that runs the bootstrap actions and the steps of a new cluster.
    ``listener`` is a listening socket; without it the server takes a free port of loopback.
    ``allowed_hosts`` are names that the Host header may have besides addresses and AWS's own.
    """

    _in_use = threading.Lock()

    def __init__(
        self,
        make_worker: Callable[[Cluster], Worker],
        *,
        listener: socket.socket | None = None,
        directory: Path | None = None,
        allowed_hosts: Iterable[str] = (),
    ) -> None:
        self._make_worker = make_worker
        self._listener = listener or address.listen("127.0.0.1", 0)
        self._directory = directory
        self._allowed_hosts = allowed_hosts
        self.endpoint = address.endpoint_of(self._listener)
        self._snapshots: snapshot.Snapshots | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> LocalAws:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once requests are served.

        Raises snapshot.StateError when the directory or its state cannot be used, RuntimeError when another
        server runs in this process.
        """
        with ExitStack() as stack:
            stack.callback(self._listener.close)
            if self._directory:
                stack.enter_context(snapshot.lock(self._directory))
            if not self._in_use.acquire(blocking=False):
                raise RuntimeError("another local AWS runs in this process; stop it first")
            stack.callback(self._in_use.release)
            moto_setup.install_emr(self._make_worker)
            http = http_server(Guard(moto_setup.create_app(), self._allowed_hosts), self._listener)
            stack.callback(http.server_close)
            threading.Thread(
                target=http.serve_forever, args=(POLL_SECONDS,), name="http", daemon=True
            ).start()
            stack.callback(http.shutdown)
            if self._directory:
                self._snapshots = self._load(self._directory)
            self._cleanup = stack.pop_all()

    def stop(self) -> None:
        """Ends the clusters, writes the last snapshot and stops serving.

        Raises snapshot.SaveError when the last snapshot cannot be written.
        """
        with self._cleanup:
            moto_setup.end_clusters("The local AWS server was stopped")
            if self._snapshots:
                self._snapshots.stop()

    def _load(self, directory: Path) -> snapshot.Snapshots:
        """Restores the state in ``directory`` and starts to save it."""
        _end_orphans(directory)
        client = s3.client(self.endpoint, "us-east-1")
        stores = (ObjectStore(directory, client), ClusterStore(directory, emr_backends), RoleStore(directory))
        for store in stores:
            store.load()

        def save() -> None:
            for store in stores:
                store.save()

        snapshots = snapshot.Snapshots(save, SNAPSHOT_SECONDS)
        snapshots.start()
        return snapshots


def http_server(app: WSGIApp, listener: socket.socket) -> BaseWSGIServer:
    """A threaded HTTP server without an access log; it listens on ``listener``."""

    class Handler(MotoRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            """No access log."""

    host, port = listener.getsockname()[:2]
    return make_server(host, port, app, threaded=True, request_handler=Handler, fd=listener.fileno())


def _end_orphans(directory: Path) -> None:
    """Kills the steps of a server that was killed: only then does a node outlive its server."""
    for node in directory.glob("clusters/*/node"):
        processes.kill_marked("EMR_CLUSTER_ID", node.parent.name)
        shutil.rmtree(node, ignore_errors=True)


def quiet_logs() -> None:
    """Logs warnings to stderr, and nothing of the HTTP server below an error."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
