"""The log files of a step or a bootstrap action: their upload to LogUri, and the failure that they show."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from local_emr.node import s3

log = logging.getLogger(__name__)

EXCEPTION = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Failure|Iteration)(?::.*)?"
)
# Lines that only report the failure of something else.
NOISE = re.compile(r"org\.apache\.spark\.SparkUserAppException|java\.lang\.reflect\.|Traceback ")
IN_THREAD = re.compile(r'Exception in thread "[^"]*" (.*)')
TAIL_BYTES = 512 * 1024  # of a log, which are searched for an exception
MAX_MESSAGE = 1000  # characters of FailureDetails.Message


class LogFiles:
    """The logs ``names`` in one directory; ``uri`` is their prefix in LogUri, None without a LogUri."""

    def __init__(self, directory: Path, uri: str | None, client: Any, names: Sequence[str]) -> None:
        self.directory = directory
        self.uri = uri
        self.client = client
        self.names = names
        self._shipped: dict[str, int] = {}
        self._warned = False
        directory.mkdir(parents=True, exist_ok=True)
        for name in names:
            (directory / name).touch()

    def path(self, name: str) -> Path:
        return self.directory / name

    def note(self, text: str, level: str = "INFO") -> None:
        """Writes a line to the controller log, with the time in UTC as EMR's has it."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self.path("controller").open("a", encoding="utf-8") as file:
            file.write(f"{stamp} {level} {text}\n")

    def location(self, name: str) -> str:
        """URI of a log in LogUri, or its path without a LogUri."""
        return f"{self.uri}{name}.gz" if self.uri else str(self.path(name))

    def ship(self) -> None:
        """Uploads the logs that have grown since the last upload; logs a warning when it fails."""
        if not self.uri:
            return
        for name in self.names:
            data = self.path(name).read_bytes()
            if self._shipped.get(name) == len(data):
                continue
            try:
                s3.put_gzip(self.client, self.location(name), data)
                self._shipped[name] = len(data)
            except s3.S3Error as error:
                if not self._warned:
                    log.warning("logs are not uploaded to LogUri: %s", error)
                self._warned = True
                return


def failure(logs: LogFiles, exit_code: int) -> dict[str, str]:
    """FailureDetails of a command that ended with ``exit_code``.

    spark-submit sends a Python driver's traceback to stdout and the JVM's errors to stderr, so the last
    exception on stdout is the cause if there is one.
    """
    for name in ("stdout", "stderr"):
        lines = _tail(logs.path(name))
        message = _last_exception(lines)
        if message:
            return _details(message, logs.location(name))
    for line in reversed(lines):
        if line.strip() and not NOISE.match(line):
            return _details(f"{line.strip()} (exit code {exit_code})", logs.location("stderr"))
    return _details(f"exit code {exit_code}", logs.location("stderr"))


def _details(message: str, log_file: str) -> dict[str, str]:
    # EMR gives this reason for most failed steps.
    return {"Reason": "Unknown Error.", "Message": message[:MAX_MESSAGE], "LogFile": log_file}


def _last_exception(lines: list[str]) -> str | None:
    for line in reversed(lines):
        thread = IN_THREAD.match(line)
        text = (thread[1] if thread else line).rstrip()
        if EXCEPTION.fullmatch(text) and not NOISE.match(text):
            return text
    return None


def _tail(path: Path) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace").splitlines()
