"""What the jobs share: their arguments, and how they hand their result back.

Of the standard library alone: what a job imports counts in its time.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

_NUMBERS = ("components", "cores", "readers")


def parse(doc: str | None, *names: str, switches: tuple[str, ...] = ()) -> argparse.Namespace:
    """The options ``--name``, each required; ``switches`` are those without a value."""
    parser = argparse.ArgumentParser(description=doc, allow_abbrev=False)
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=int if name in _NUMBERS else str)
    for name in switches:
        parser.add_argument(f"--{name}", action="store_true")
    return parser.parse_args()


def answer(**result: Any) -> None:
    """Print the line that ``benchmarks.context.answer`` looks for."""
    print("RESULT", json.dumps(result))
