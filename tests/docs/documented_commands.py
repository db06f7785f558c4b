"""The argument parsers of the project's commands, without running a command."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

SHELL = ("#", ">", ">>", "|", "||", "&&", ";", "&", "2>&1")


class _Captured(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _capture(self: argparse.ArgumentParser, *_: Any) -> Any:
    raise _Captured(self)


@functools.cache
def parser_of(program: str, repo: Path) -> argparse.ArgumentParser:
    """Parser of a module, or of a script below the repository. Raises ValueError when there is none."""
    main = _main_of_script(repo / program) if program.endswith(".py") else _main_of_module(program)
    with mock.patch.object(argparse.ArgumentParser, "parse_args", _capture):
        try:
            main([])
        except _Captured as captured:
            return captured.parser
    raise ValueError(f"{program} parses no arguments")


def _main_of_module(name: str) -> Callable[[list[str]], Any]:
    if not (found := importlib.util.find_spec(name)):
        raise ValueError(f"no module {name}")
    if found.submodule_search_locations:
        name = f"{name}.__main__"
    # local_emr's __main__ starts it where it is imported; the others ask for their own name first.
    module = importlib.import_module("local_emr.cli" if name == "local_emr.__main__" else name)
    return module.main


def _main_of_script(path: Path) -> Callable[[list[str]], Any]:
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"no script {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


def own_command(line: str, repo: Path) -> tuple[str, list[str]] | None:
    """Program and arguments of a command of ours in a shell line; None for any other line.

    A program is a module's name, or a script's path below the repository.
    """
    words = shlex.split(line.replace("$(", " $( "), comments=False)
    for at, word in enumerate(words):
        if word in SHELL:
            words = words[:at]
            break
    program = next((at for at, word in enumerate(words) if Path(word).name.startswith("python")), None)
    if program is not None and len(words) > program + 1:
        if words[program + 1] == "-m" and len(words) > program + 2:
            own = importlib.util.find_spec(words[program + 2].partition(".")[0])
            inside = own and own.origin and Path(own.origin).resolve().is_relative_to(repo)
            installed = inside and ".venv" not in Path(str(own.origin)).parts
            known = installed or own is None
            return (words[program + 2], words[program + 3 :]) if known else None
        if words[program + 1].endswith(".py"):
            return words[program + 1], words[program + 2 :]
    if words and words[0] == "spark-submit":
        script = next((at for at, word in enumerate(words) if word.endswith(".py")), None)
        if script is not None:
            return f"spark_jobs/{Path(words[script]).name}", words[script + 1 :]
    return None


def check(program: str, arguments: list[str], repo: Path, *, whole: bool) -> None:
    """Raise ValueError for what the program does not take; ``whole``: for what it lacks, too."""
    parser = parser_of(program, repo)
    if whole:

        def fail(message: str) -> None:
            raise ValueError(f"{program}: {message}")

        with mock.patch.object(parser, "error", fail):
            if "--help" not in arguments:
                parser.parse_args(arguments)
        return
    for word in arguments:
        option = word.partition("=")[0]
        if option.startswith("--") and option not in parser._option_string_actions:
            raise ValueError(f"{program} has no option {option}")
