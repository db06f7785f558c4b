"""Sockets and URLs. It imports nothing slow, so that a port in use is reported at once."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError when the address cannot be bound."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def endpoint_of(listener: socket.socket) -> str:
    """The URL at which clients on this machine reach the server."""
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"http://{reachable}:{port}"


def reachable(url: str, seconds: float = 5.0) -> bool:
    """True when something accepts connections at an http(s) URL."""
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(address, seconds).close()
    except (OSError, ValueError):
        return False
    return True
