"""Command-line arguments: a parser that names the nearest option, and types of numbers.

Standard library only, and good for Python 3.9: the scripts of docker/ run before anything is installed.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

BAD_INPUT = 2
"""Exit code of bad input, as argparse has it."""

ERROR = "error: "
"""Prefix of the line on stderr that says why a command gave up."""

_OPTION = re.compile(r"(--?[A-Za-z][^\s=]*)(=.*)?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser whose help is ``text`` as it is, and whose errors are one line. It takes no abbreviations."""

    def __init__(self, text: str | None, prog: str | None = None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog,
            description=text,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse does it, except that an unknown option comes first, with the nearest that there is."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--") if "--" in words else None]:
            match = _OPTION.fullmatch(word)
            if match and match[1] not in self._option_string_actions:
                self.error(unknown("option", match[1], self._option_string_actions, self.prog))
        return super().parse_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the error as one line on stderr and exit with code 2."""
        self.exit(BAD_INPUT, f"{ERROR}{message}\n")


def unknown(kind: str, name: str, known: Iterable[str], program: str) -> str:
    """Message about a name that does not exist: with the nearest known one, or where to find them all."""
    nearest = difflib.get_close_matches(name, known, n=1)
    advice = f"did you mean {nearest[0]!r}?" if nearest else f"see {program} --help"
    return f"no {kind} {name!r}; {advice}"


def number(
    kind: type[int] | type[float], range_text: str, accepts: Callable[[Any], bool]
) -> Callable[[str], Any]:
    """An argument type for argparse: a number that ``accepts`` takes; errors quote ``range_text``."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"must be {range_text}, not {text!r}")
        return value

    return convert


at_least_one = number(int, "a whole number of at least 1", lambda value: value >= 1)
share = number(float, "a number above 0 and below 1", lambda value: 0 < value < 1)
share_or_all = number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
