"""Makes moto serve our EMR, and its S3 safe for many clients at once."""

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


def install_emr(make_worker: Callable[[Cluster], Worker], start_seconds: float) -> None:
    """Empties all of moto's services and puts the local EMR in the place of moto's."""
    emr_backends.backend = LocalEmrBackend
    LocalEmrBackend.make_worker = staticmethod(make_worker)
    LocalEmrBackend.start_seconds = start_seconds
    LocalEmrBackend.closing = False
    BackendDict.reset()


def end_clusters(message: str) -> None:
    """Ends the clusters of all regions and waits for them; RunJobFlow is refused from now on."""
    LocalEmrBackend.closing = True
    threads = [
        threading.Thread(target=backend.stop, args=(message,))
        for _, _, backend in list(emr_backends.iter_backends())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def create_app() -> OneConditionalWrite:
    """moto's services as a WSGI application for many clients, without answers to CORS requests."""
    werkzeug_app.DISABLE_GLOBAL_CORS = True
    forget_what_is_gone()
    make_s3_concurrent()
    return OneConditionalWrite(Dispatcher(werkzeug_app.create_backend_app))


def forget_what_is_gone() -> None:
    """moto keeps every object that it ever made, for its dashboard: replaced and deleted S3 objects with
    their bytes as well. A server that runs for days must let them go."""

    def new(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return object.__new__(cls)

    BaseModel.__new__ = new


def make_s3_concurrent() -> None:
    """moto's object store is written for one client at a time; these places matter for more."""

    # The ETag is made on first use by reading the buffer that a GET may be reading: read under its lock.
    def etag(self: Any) -> str:
        if self._etag is None:
            from moto.utilities.utils import md5_hash

            digest = md5_hash()
            digest.update(self.value)
            self._etag = digest.hexdigest()
        return f'"{self._etag}"'

    # Replacing or deleting an object closes its buffer, perhaps under a GET: leave that to the collector.
    def dispose(self: Any, garbage: bool = False) -> None:
        self.disposed = True

    # The parts of a finished upload hang on to the object: without their bytes.
    def dispose_parts(self: Any) -> None:
        for part in list(self.parts.values()):
            part._value_buffer = io.BytesIO()

    # A listing looks each name up again, when it may be gone.
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
    """moto's own, which looks through its directory for each request: half of the time of a small one."""

    def __init__(self, create_app: Callable[..., Any]) -> None:
        super().__init__(create_app)
        self._known: dict[str, Any] = {}

    def get_backend_for_host(self, host: str | None) -> Any:
        if host is None:
            return None
        if host not in self._known:
            backend = super().get_backend_for_host(host)
            if backend is None:  # the host may be anything: only what is found is kept
                return None
            self._known[host] = backend
        return self._known[host]


class OneConditionalWrite:
    """WSGI middleware: conditional writes of S3 (If-Match, If-None-Match) run one at a time.

    moto looks, then writes; on S3 that is one act, and people build locks on it.
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
