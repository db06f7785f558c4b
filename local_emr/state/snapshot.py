"""Snapshots: the files of the state that survives a restart.

Layout of the directory::

    objects.json          buckets, their settings, and each object's name, metadata and digest
    objects/ab/abcdef...  the bytes of an object, named by their SHA-256
    clusters.json         all clusters with their steps
    roles.json            IAM's roles and instance profiles

A file is written under a temporary name and renamed, contents before their index, so a crash leaves the last
snapshot complete.
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
    """The state in the directory cannot be used; the message has the reason and the remedy."""


class SaveError(Exception):
    """The last snapshot could not be written."""


def write(path: Path, data: bytes) -> None:
    """Writes a file atomically. Raises OSError."""
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
    """The content of a snapshot's file, None when it does not exist. Raises StateError."""
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
    """A JSON file, which is written only when its content has changed; dates become text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._written: bytes | None = None

    def save(self, **values: Any) -> bool:
        """Returns whether the file was written. Raises OSError."""
        data = json.dumps({"version": VERSION, **values}, default=str).encode()
        if data == self._written:
            return False
        write(self.path, data)
        self._written = data
        return True

    def load(self, key: str) -> list[Any]:
        """The list saved as ``key``, an empty one without a file. Raises StateError."""
        data = read_json(self.path)
        if data is None:
            return []
        if not isinstance(data.get(key), list):
            raise self.damaged(f"it has no list {key}")
        return data[key]

    def damaged(self, reason: str) -> StateError:
        return StateError(f"{self.path} is damaged: {reason}; move it away to start empty")


def lock(directory: Path) -> Any:
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
            except Exception:  # a full disk may have space the next time
                log.exception("snapshot failed")
