"""Credentials that are made up, the search for them, and hostile names."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import secrets
import threading
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

SMALL = {"components": 5, "alpha": 0.35, "weights": "random:0"}
"""Params of a quick run."""

# Names that mean something to HTML, Jinja, Python, a shell and a URL. A slash cannot be in one.
HOSTILE_LABELS = (
    "<script>document.title = 'hacked'; <!--",
    "\"><img src=x onerror=document.title='hacked'>",
    "{{ 7*7 }}",
    "{% raw %}",
    "['a', 'b']",
    "javascript:alert(1)",
    "$(touch hacked) `id` ; & |",
    "12",
)

# The characters that real ones have, and that URLs and shells write in other ways.
ODD = "/+="


@dataclass(frozen=True)
class Planted:
    """Everything that must not be found, by what it is."""

    values: dict[str, str] = field(default_factory=lambda: _made_up())
    looked_at: dict[bytes, set[str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def found_in(self, data: bytes) -> set[str]:
        """Names of what ``data`` holds: as it is, as a URL or base64 write it, packed. Wheels stay packed."""
        digest = hashlib.sha256(data).digest()
        if digest not in self.looked_at:  # most files of a run are there several times
            self.looked_at[digest] = self._search(data)
        return self.looked_at[digest]

    def _search(self, data: bytes) -> set[str]:
        found = {name for name, value in self.values.items() if any(form in data for form in _forms(value))}
        if data[:2] == b"\x1f\x8b":
            found |= self.found_in(gzip.decompress(data))
        elif data[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = archive.namelist()
                for name in names if not any(".dist-info/" in name for name in names) else ():
                    found |= self.found_in(archive.read(name))
        return found


def _made_up() -> dict[str, str]:
    of_aws = ("secret", "token", "environment_secret", "environment_token")
    plain = ("key", "environment_key", "jwt", "api_secret")
    return {
        **{name: f"planted{ODD}{name}{secrets.token_hex(12)}" for name in of_aws},
        **{name: f"PLANTED{name.upper()}{secrets.token_hex(12)}" for name in plain},
        "fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    }


@functools.cache
def _forms(value: str) -> set[bytes]:
    whole = base64.b64encode(value.encode())
    return {value.encode(), quote(value, safe="").encode(), quote(value).encode(), whole.rstrip(b"=")}


def connection_of(planted: Planted, endpoint: str) -> str:
    """The connection of the local AWS as JSON, with planted credentials: it takes any."""
    extra = {"region_name": "eu-west-3", "endpoint_url": endpoint, "aws_session_token": planted["token"]}
    return json.dumps(
        {"conn_type": "aws", "login": planted["key"], "password": planted["secret"], "extra": extra}
    )


class CommandLines(threading.Thread):
    """Looks at the command lines of all processes, over and over, until it is told to stop."""

    def __init__(self, planted: Planted) -> None:
        super().__init__(daemon=True)
        self.planted, self.stopping = planted, threading.Event()
        self.found: set[str] = set()
        self.seen: set[bytes] = set()

    def run(self) -> None:
        while not self.stopping.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = path.read_bytes()
                except OSError:
                    continue
                if line not in self.seen:
                    self.seen.add(line)
                    self.found |= {
                        (name, line.decode(errors="replace")) for name in self.planted.found_in(line)
                    }
