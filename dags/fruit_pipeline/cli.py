"""What every ``python -m fruit_pipeline.<module>`` shares: help, exit codes, ``--json``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Callable
from typing import Any

from image_features.errors import JobError
from image_features.step import EXIT_REFUSED


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's own text."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--json", action="store_true", help="print the result as JSON, for machines")
    return made


def run(work: Callable[[], Any], args: argparse.Namespace) -> int:
    """Run ``work`` and print the dataclass or dict it returns; JobError is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        result = work()
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REFUSED
    values = dataclasses.asdict(result) if dataclasses.is_dataclass(result) else result  # type: ignore[arg-type]
    if args.json:
        print(json.dumps(values, indent=1, ensure_ascii=False))
    elif isinstance(values, dict):
        for key, value in values.items():
            if not isinstance(value, list | dict):
                print(f"{key:18} {value}")
    return 0
