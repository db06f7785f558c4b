"""moto as this server needs it: with the local EMR, and with an S3 for many clients at once."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from moto.core.base_backend import BackendDict
from moto.core.common_models import BaseModel
from moto.emr.models import emr_backends
from moto.moto_server import werkzeug_app
from moto.s3.models import FakeKey, FakeMultipart
from moto.s3.utils import _VersionedKeyStore

from local_emr.emr.cluster import Cluster
from local_emr.emr.lifecycle import Worker
from local_emr.emr.models import LocalEmrBackend


def install_emr(make_worker: Callable[[Cluster], Worker]) -> None:
    """Replaces moto's EMR by the local EMR, and empties all services."""
    emr_backends.backend = LocalEmrBackend
    LocalEmrBackend.make_worker = staticmethod(make_worker)
    LocalEmrBackend.closing = False
    BackendDict.reset()


def end_clusters(message: str) -> None:
    """Ends the clusters of all regions and waits for them; RunJobFlow is refused from then on."""
    LocalEmrBackend.closing = True
    threads = [
        threading.Thread(target=backend.stop, args=(message,))
        for _, _, backend in list(emr_backends.iter_backends())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def create_app() -> AtomicConditionalWrites:
    """moto's services as a WSGI application that answers no CORS request."""
    werkzeug_app.DISABLE_GLOBAL_CORS = True
    stop_tracking_instances()
    make_s3_concurrent()
    return AtomicConditionalWrites(Dispatcher(werkzeug_app.create_backend_app))


def stop_tracking_instances() -> None:
    """Stops moto from keeping every instance of its models, which it does for its dashboard.

    They include the bytes of replaced and deleted S3 objects: the memory of the server would grow.
    """

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    BaseModel.__new__ = new


def make_s3_concurrent() -> None:
    """Replaces the methods of moto's object store that fail when several clients use it at once."""

    # moto computes the ETag on first use from a buffer that a GET may be reading; `value` takes its lock.
    def etag(self: Any) -> str:
        if self._etag is None:
            from moto.utilities.utils import md5_hash

            digest = md5_hash()
            digest.update(self.value)
            self._etag = digest.hexdigest()
        return f'"{self._etag}"'

    # moto closes the buffer of a replaced or deleted object, perhaps during a GET; the collector frees it.
    def dispose(self: Any, garbage: bool = False) -> None:
        self.disposed = True

    # The parts of a completed upload stay referenced; drop their bytes.
    def dispose_parts(self: Any) -> None:
        for part in list(self.parts.values()):
            part._value_buffer = io.BytesIO()

    # moto looks each name of a listing up again, when it may have been deleted.
    def iteritems(self: Any) -> Iterator[tuple[str, Any]]:
        for name, versions in dict(self).items():
            if versions:
                yield name, versions[-1]

    FakeKey.etag = property(etag)
    FakeKey.dispose = dispose
    FakeKey.__del__ = lambda self: None
    FakeMultipart.dispose = dispose_parts
    _VersionedKeyStore._iteritems = _VersionedKeyStore.items = _VersionedKeyStore.iteritems = iteritems


class Dispatcher(werkzeug_app.DomainDispatcherApplication):
    """moto's dispatcher with a cache of hosts: its search took half of the time of a small request."""

    def __init__(self, create_app: Callable[..., Any]) -> None:
        super().__init__(create_app)
        self._backends: dict[str, Any] = {}

    def get_backend_for_host(self, host: str | None) -> Any:
        if host is None:
            return None
        if host not in self._backends:
            backend = super().get_backend_for_host(host)
            if backend is None:  # unknown hosts are not cached, as there may be any number
                return None
            self._backends[host] = backend
        return self._backends[host]


class AtomicConditionalWrites:
    """WSGI middleware: conditional writes of S3 (If-Match, If-None-Match) run one at a time.

    moto checks the condition before it writes; S3 does both as one operation, and locks rely on that.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        conditional = "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MATCH" in environ
        if conditional and environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            with self.lock:
                return self.app(environ, start_response)
        return self.app(environ, start_response)
