"""Arguments and results of the jobs.

It imports the standard library only, because the imports of a job count in its time.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

_NUMBERS = ("components", "cores", "readers")


def parse(doc: str | None, *names: str, switches: tuple[str, ...] = ()) -> argparse.Namespace:
    """Parse the options ``--name``, which are required, and ``switches``, which have no value."""
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=int if name in _NUMBERS else str)
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def answer(**result: Any) -> None:
    """Print the line that ``benchmarks.context.answer`` reads."""
    print("RESULT", json.dumps(result))
