"""The commands for people, run in the process of the test."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from subprocess import CompletedProcess
from unittest import mock

from fruit_pipeline.commands.main import main


def run_cli(*words: str, **environment: str) -> CompletedProcess[str]:
    """What ``python -m fruit_pipeline <words>`` prints and its exit code, with further variables.

    Errors that a user would see as a traceback are raised.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, environment),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _no_log_handlers(),
    ):
        try:
            code = main(words)
        except SystemExit as ended:  # argparse, after --help and for invalid arguments
            code = int(ended.code or 0)
    return CompletedProcess(["fruit_pipeline", *words], code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _no_log_handlers() -> Iterator[None]:
    """A root logger as a new process has it: the command adds its own handler."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
