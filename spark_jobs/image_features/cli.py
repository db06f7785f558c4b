"""What every command shares: help, arguments, exit codes, ``--json``; and the steps' Spark session."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

from image_features.errors import Failed, JobError

EXIT_FAILED = 1
EXIT_REFUSED = 2
"""As argparse uses it."""

ERROR = "error: "
"""What the line begins with that says why a command gave up."""

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 bad input (one line on stderr)."


def parser(doc: str | None, *, prints_result: bool = True) -> argparse.ArgumentParser:
    """A parser whose help is the module's own text and the exit codes."""
    made = argparse.ArgumentParser(
        description=doc,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if prints_result:
        made.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def at_least_one(text: str) -> int:
    """Argument type of argparse: a whole number from 1 up."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def share(text: str) -> float:
    """Argument type of argparse: a number between 0 and 1, both excluded."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {value}")
    return value


def share_or_all(text: str) -> float:
    """Argument type of argparse: a number from 0 to 1, both included."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {text!r}") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {value}")
    return value


def main(
    work: Callable[[], Any],
    args: argparse.Namespace | None = None,
    show: Callable[[Any], None] | None = None,
) -> int:
    """Run ``work`` and print what it returns, a dataclass or plain values; an expected failure is one line.

    With ``--json`` it is printed as JSON, and whatever else the work prints goes to stderr; without,
    ``show`` prints it, or else the plain values of a dict are printed, a line each.
    """
    as_json = getattr(args, "json", False)
    try:
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = work()
    except (JobError, Failed) as error:
        print(f"{ERROR}{error}", file=sys.stderr, flush=True)
        return EXIT_FAILED if isinstance(error, Failed) or error.retryable else EXIT_REFUSED
    if as_json:
        print(json.dumps(_plain(result), indent=1, ensure_ascii=False))
    elif show:
        show(result)
    elif result is not None:
        for key, value in _plain(result).items():
            if not isinstance(value, list | dict):
                print(f"{key:18} {value}")
    return 0


def _plain(result: Any) -> Any:
    """Dataclasses as dicts, also those in a list."""
    if isinstance(result, list):
        return [_plain(item) for item in result]
    return dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
