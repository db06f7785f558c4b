"""One process that serves it all: moto behind the guard, clusters, snapshots."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from local_emr.emr.cluster import Cluster, Step
from local_emr.emr.models import LocalEmrBackend
from local_emr.node import processes, s3
from local_emr.node.runner import Job, NodeRunner
from local_emr.server import moto_setup
from local_emr.server.browser_guard import Guard
from local_emr.settings import Settings
from local_emr.state import snapshot  # moto_setup first: it tells moto what to read
from local_emr.state.clusters import ClusterStore
from local_emr.state.objects import ObjectStore
from local_emr.state.roles import RoleStore

SNAPSHOT_SECONDS = 30.0


class ClusterWorker(NodeRunner):
    """A NodeRunner that takes a cluster's own records."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        master = cluster.collection.master.ec2_id
        request = cluster.request
        configurations = request.get("Configurations") or []
        super().__init__(settings, cluster.id, cluster.region, master, request.get("LogUri"), configurations)

    def run_step(self, step: Step) -> dict[str, str] | None:
        return self.step(Job(step.id, step.jar, step.args))


class Server:
    """``start`` returns once requests are served; ``stop`` leaves no process and no temporary file."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        directory: Path | None,
        names: Iterable[str] = (),
        snapshot_seconds: float = SNAPSHOT_SECONDS,
    ) -> None:
        from moto.emr.models import emr_backends
        from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
        from werkzeug.serving import make_server

        class Handler(MotoRequestHandler):
            def log_request(self, code: Any = "-", size: Any = "-") -> None:
                """No access log."""

        self.settings = settings
        self.directory = directory
        moto_setup.install_emr()
        moto_setup.forget_what_is_gone()
        moto_setup.make_s3_concurrent()
        LocalEmrBackend.make_worker = lambda cluster: ClusterWorker(settings, cluster)
        LocalEmrBackend.start_seconds = settings.start_seconds
        app = moto_setup.Dispatcher(create_backend_app)
        guarded = Guard(moto_setup.OneConditionalWrite(app), names)
        host, port = listener.getsockname()[:2]
        self._http = make_server(
            host, port, guarded, threaded=True, request_handler=Handler, fd=listener.fileno()
        )
        self._thread = threading.Thread(target=self._http.serve_forever, name="http", daemon=True)
        self._emr = emr_backends
        self._snapshot_seconds = snapshot_seconds
        self._snapshots: snapshot.Snapshots | None = None

    def start(self) -> None:
        """Raises snapshot.StateError when the directory's state cannot be used."""
        self._thread.start()
        if self.directory:
            _end_orphans(self.directory)
            objects = ObjectStore(self.directory, s3.client(self.settings.endpoint, "us-east-1"))
            clusters = ClusterStore(self.directory, self._emr)
            roles = RoleStore(self.directory)
            for store in (objects, clusters, roles):
                store.load()

            def save() -> None:
                for store in (objects, clusters, roles):
                    store.save()

            self._snapshots = snapshot.Snapshots(save, self._snapshot_seconds)
            self._snapshots.start()

    def stop(self) -> None:
        """Ends the clusters, writes the last snapshot (raises OSError when it cannot), stops serving."""
        LocalEmrBackend.closing = True
        threads = [
            threading.Thread(target=backend.stop, args=("The local AWS server was stopped",))
            for _, _, backend in list(self._emr.iter_backends())
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        try:
            if self._snapshots:
                self._snapshots.stop()
        finally:
            self._http.shutdown()
            self._thread.join(5)
            if not self.directory:
                shutil.rmtree(self.settings.root, ignore_errors=True)


def _end_orphans(directory: Path) -> None:
    """Ends what a server that was killed left running: only then does a node outlive its server."""
    for node in directory.glob("clusters/*/node"):
        processes.kill_marked("EMR_CLUSTER_ID", node.parent.name)
        shutil.rmtree(node, ignore_errors=True)


def with_root(settings: Settings, directory: Path | None) -> Settings:
    """``settings`` with the directory for clusters: the given one, or a temporary one. Raises OSError."""
    root = directory or Path(tempfile.mkdtemp(prefix="local-emr-"))
    return dataclasses.replace(settings, root=root.resolve())


def quiet_logs() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
