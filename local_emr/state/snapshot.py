"""Keeps what must survive a restart: buckets and their objects, clusters that have ended, roles.

Layout of the directory::

    objects.json          buckets, their settings, and each object's name, metadata and digest
    objects/ab/abcdef...  the bytes of an object, named by their SHA-256
    clusters.json         all clusters with their steps
    roles.json            IAM's roles and instance profiles

Files are written beside their place and renamed, content before index, so that a crash leaves the last
snapshot whole.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

VERSION = 1


class StateError(Exception):
    """The state in the directory cannot be used; the message says why and what to do."""


class SaveError(Exception):
    """The last snapshot could not be written."""


def write(path: Path, data: bytes) -> None:
    """Atomic: a reader sees the old content or the new. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """None when there is no such file. Raises StateError when it is not one of ours."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StateError(f"cannot read {path}: {error}; move it away to start empty") from error
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise StateError(f"{path} was not written by this version; move it away to start empty")
    return data


class Document:
    """A JSON file that is written again only when its content has changed; dates become text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: bytes | None = None

    def save(self, **values: Any) -> bool:
        """Whether it was written. Raises OSError."""
        data = json.dumps({"version": VERSION, **values}, default=str).encode()
        if data == self._written:
            return False
        write(self.path, data)
        self._written = data
        return True

    def load(self, key: str) -> list[Any]:
        """What was saved as ``key``, nothing where no file is. Raises StateError."""
        data = read_json(self.path)
        if data is None:
            return []
        if not isinstance(data.get(key), list):
            raise self.damaged(f"no {key}")
        return data[key]

    def damaged(self, why: str) -> StateError:
        return StateError(f"{self.path} is damaged: {why}; move it away to start empty")


def claim(directory: Path) -> Any:
    """Locks the directory for one server until the result is closed. Raises StateError."""
    try:
        file = (directory / "lock").open("w")
    except OSError as error:
        raise StateError(str(error)) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StateError(f"another server uses {directory}") from error
    return file


class Snapshots:
    """Calls ``save`` every ``seconds``, and once more at ``stop``."""

    def __init__(self, save: Callable[[], None], seconds: float) -> None:
        self._save = save
        self._seconds = seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Raises SaveError when the last snapshot cannot be written."""
        self._stopping.set()
        self._thread.join()
        try:
            self._save()
        except OSError as error:
            raise SaveError(f"the state could not be saved: {error}") from error

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds):
            try:
                self._save()
            except Exception:  # a full disk now may be free the next time
                log.exception("snapshot failed")
