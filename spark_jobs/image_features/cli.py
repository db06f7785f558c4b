"""The frame of every command: help, ``--json``, exit codes, and one line for an expected failure.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed: the work began and did not finish |
| 2 | bad input, reported in one line: an argument, or what an earlier stage left |
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

from image_features.arguments import BAD_INPUT, ERROR, Parser
from image_features.errors import Failed, JobError

FAILED = 1

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 bad input (one line on stderr)."


def parser(text: str | None, prog: str | None = None) -> Parser:
    """A parser whose help is a module's own ``text`` and the exit codes, with the option ``--json``."""
    command_parser = Parser(text, prog, EXIT_CODES)
    command_parser.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return command_parser


def use_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding: file names are UTF-8 here."""
    if sys.getfilesystemencoding() != "utf-8":
        # This program itself, with its own arguments.
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, "PYTHONUTF8": "1"})  # noqa: S606  # nosec B606


def log_to_stderr() -> None:
    """Show the log's messages from INFO on stderr, a line each."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)


def main(
    work: Callable[[], Any],
    args: argparse.Namespace | None = None,
    show: Callable[[Any], None] | None = None,
) -> int:
    """Run ``work``, print its result, a dataclass or plain values, and return the exit code.

    With ``--json`` the result is one JSON document on stdout, and whatever else the work prints goes
    to stderr. Without, ``show`` prints it; without ``show``, the plain values of a dict are printed, a
    line each. JobError, Failed and Ctrl-C are one line on stderr; any other exception is raised.
    """
    as_json = getattr(args, "json", False)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = work()
    except (JobError, Failed) as error:
        return _fail(str(error), FAILED if isinstance(error, Failed) or error.retryable else BAD_INPUT)
    except KeyboardInterrupt:
        return _fail("stopped", FAILED)
    if as_json:
        print_json(result)
    elif show:
        show(result)
    elif result is not None:
        for key, value in _plain(result).items():
            if not isinstance(value, list | dict):
                print(f"{key:18} {value}")
    return 0


def print_json(result: Any) -> None:
    """Print dataclasses, a list of them, or plain values as one JSON document."""
    print(json.dumps(_plain(result), indent=1, ensure_ascii=False))


def _fail(message: str, code: int) -> int:
    print(f"{ERROR}{message}", file=sys.stderr, flush=True)
    return code


def _plain(result: Any) -> Any:
    """Dataclasses as dicts, also those in a list; one with ``to_dict`` decides its own form."""
    if isinstance(result, list):
        return [_plain(item) for item in result]
    if hasattr(result, "to_dict"):
        return result.to_dict()
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
