"""The argument parsers of the project's commands, without running a command."""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fruit_pipeline.commands.main import MODULE_CALL, SCRIPT_NAME

SHELL = ("#", ">", ">>", "|", "||", "&&", ";", "&", "2>&1")

Main = Callable[[list[str]], Any]


class _Captured(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _capture(self: argparse.ArgumentParser, *_: Any) -> Any:
    raise _Captured(self)


@functools.cache
def parser_of(program: str, repo: Path) -> argparse.ArgumentParser:
    """Parser of a module, of a script below the repository, or of ``fruit_pipeline <verb>``.

    Raises ValueError when there is none.
    """
    name, _, verb = program.partition(" ")
    main = _main_of_script(repo / name) if name.endswith(".py") else _main_of_module(name)
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", _capture):
        try:
            main([verb] if verb else [])
        except _Captured as captured:
            return captured.parser
    raise ValueError(f"{program} parses no arguments")


def _main_of_module(name: str) -> Main:
    if not (spec := importlib.util.find_spec(name)):
        raise ValueError(f"no module {name}")
    if spec.submodule_search_locations:
        name = f"{name}.__main__"
    return importlib.import_module(name).main


def _main_of_script(path: Path) -> Main:
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ValueError(f"no script {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


def own_command(line: str, repo: Path) -> tuple[str, list[str]] | None:
    """Program and arguments of a command of this project in a shell line; None for any other line.

    A program is a module's name, a script's path below the repository, or ``fruit_pipeline <verb>``.
    """
    words = shlex.split(re.sub(rf"\b{SCRIPT_NAME} ", f"{MODULE_CALL} ", line).replace("$(", " $( "))
    end = next((at for at, word in enumerate(words) if word in SHELL), len(words))
    words = words[:end]
    python = next((at for at, word in enumerate(words) if Path(word).name.startswith("python")), None)
    if python is not None and len(words) > python + 1:
        program, *arguments = words[python + 1 :]
        if program == "-m" and arguments:
            return _own_module(arguments[0], arguments[1:], repo)
        if program.endswith(".py"):
            return program, arguments
    if words and words[0] == "spark-submit":
        script = next((at for at, word in enumerate(words) if word.endswith(".py")), None)
        if script is not None:
            return f"spark_jobs/{Path(words[script]).name}", words[script + 1 :]
    return None


def _own_module(name: str, arguments: list[str], repo: Path) -> tuple[str, list[str]] | None:
    """None for a module that is installed and not of this project; one that is not installed is ours."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    if spec is not None:
        origin = Path(str(spec.origin)).resolve()
        if not origin.is_relative_to(repo) or ".venv" in origin.parts:
            return None
    if name != "fruit_pipeline":
        return name, arguments
    if arguments in ([], ["--help"], ["<verb>"]):
        return None
    return f"{name} {arguments[0]}", arguments[1:]


def check(program: str, arguments: list[str], repo: Path, *, whole: bool) -> None:
    """Raise ValueError for arguments that the program does not take; ``whole``: for missing ones too."""
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
