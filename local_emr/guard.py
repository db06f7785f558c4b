"""Refuses requests that a web page could send: this server runs what it is told to."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Guard:
    """WSGI middleware: 403 for a browser's request from a page, and for a Host this server is not known by.

    A page on the internet can point a name of its own at 127.0.0.1 (DNS rebinding); its requests then carry
    that name as Host. An address cannot be rebound, so addresses pass.
    """

    def __init__(self, app: WSGIApp, names: Iterable[str]) -> None:
        self.app = app
        self.names = {name.lower() for name in names} | {"localhost"}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = self.objection(environ)
        if reason is None:
            return self.app(environ, start_response)
        body = f"Refused by local_emr: {reason}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", [*headers, ("Connection", "close")])
        return [body]

    def objection(self, environ: dict[str, Any]) -> str | None:
        """Why a request is refused, or None."""
        if "HTTP_ORIGIN" in environ:
            return "requests from web pages (Origin header) are not served"
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("none", "same-origin"):
            return "requests from web pages (Sec-Fetch-Site header) are not served"
        host = environ.get("HTTP_HOST", "")
        if not self.knows(host):
            return f"unexpected Host {host[:200]!r}; name it with --allow-host if it is yours"
        return None

    def knows(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.rpartition(":")[0] or name
        if name in self.names or name.endswith((".localhost", *AWS_DOMAINS)):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True
