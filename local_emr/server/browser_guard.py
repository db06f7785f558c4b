"""Refuses requests that a web page could send, because this server runs commands."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

# The scope of this credential routes a request to S3.
TAB_CREDENTIAL = (
    "AWS4-HMAC-SHA256 Credential=tab/20000101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)

# An object may be a page with a script. A tab would give it this server's origin, and so access to every
# bucket; a sandbox gives it no origin, so its requests are refused like those of any other page.
TAB_HEADERS = (
    ("Content-Security-Policy", "sandbox allow-scripts"),
    ("X-Content-Type-Options", "nosniff"),
)
MOTO_PAGES = "/moto-api"

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Guard:
    """WSGI middleware: 403 for a browser's request from a page, and for an unknown Host.

    A tab may show an object, also through a link on another page, such as Airflow's link to the report of a
    run. The page with the link cannot read the object, and an object that is a page cannot read the server.

    A page on the internet can point its own domain name at 127.0.0.1 (DNS rebinding); its requests then have
    that name as Host. An address cannot be rebound, so addresses pass. ``names`` are accepted as well.
    """

    def __init__(self, app: WSGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = {name.lower() for name in names} | {"localhost"}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = self.refusal(environ)
        if reason is None:
            if opens_object(environ):
                # A browser cannot sign, and this server accepts any key.
                environ.setdefault("HTTP_AUTHORIZATION", TAB_CREDENTIAL)
            if environ.get("PATH_INFO", "").startswith(MOTO_PAGES):  # moto's dashboard requests its own data
                return self.app(environ, start_response)
            return self.app(environ, _sandboxed(start_response))
        body = f"Refused by local_emr: {reason}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", [*headers, ("Connection", "close")])
        return [body]

    def refusal(self, environ: dict[str, Any]) -> str | None:
        """The reason to refuse a request, or None."""
        if "HTTP_ORIGIN" in environ:
            return "requests from web pages (Origin header) are not served"
        site = environ.get("HTTP_SEC_FETCH_SITE", "none")
        if site not in ("none", "same-origin") and not opens_object(environ):
            return "requests from web pages (Sec-Fetch-Site header) are not served"
        host = environ.get("HTTP_HOST", "")
        if not self.accepts(host):
            return f"unexpected Host {host[:200]!r}; name it with --allow-host if it is yours"
        return None

    def accepts(self, host: str) -> bool:
        """Whether a Host header is an address, or a name of this server or of AWS."""
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
        if name in self.names or name.endswith((".localhost", *AWS_DOMAINS)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def opens_object(environ: dict[str, Any]) -> bool:
    """Whether a browser requests an object of S3 for a tab, and not as a part of another page.

    A request with a query is none: AWS's older protocols take an action from the query of a GET.
    """
    return (
        environ["REQUEST_METHOD"] in ("GET", "HEAD")
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
        and not environ.get("QUERY_STRING")
        and not environ.get("PATH_INFO", "").startswith(MOTO_PAGES)
    )


def _sandboxed(start_response: Callable[..., Any]) -> Callable[..., Any]:
    def start(status: str, headers: Iterable[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, *TAB_HEADERS], *error)

    return start
