"""The entry ``python -m fruit_pipeline <verb>``, also installed as ``fruit-features <verb>``.

It imports the module of the one verb that is called. The list of verbs is read from the modules'
source, so that it needs no import.
"""

from __future__ import annotations

import ast
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from image_features import cli
from image_features.arguments import BAD_INPUT, ERROR, Parser, unknown

MODULE_CALL = "python -m fruit_pipeline"
SCRIPT_NAME = "fruit-features"

GROUPS = {
    "The whole pipeline on this machine": ("demo",),
    "A run by hand": ("draw-images", "sample", "backbone", "upload-code", "wheelhouse", "cluster", "steps"),
    "A finished run": ("check", "report", "clean"),
    "Time and money": ("estimate", "prices"),
    "Setting up": ("clone-shape", "local-account"),
}
VERBS = [verb for verbs in GROUPS.values() for verb in verbs]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (default: the process's arguments) names; return its exit code.

    Raises SystemExit, as argparse does, after ``<verb> --help`` and for arguments that are not valid.
    """
    if argv is None:
        cli.use_utf8()
    words = list(sys.argv[1:] if argv is None else argv)
    program = SCRIPT_NAME if Path(sys.argv[0]).stem == SCRIPT_NAME else MODULE_CALL
    if not words or words[0] in ("-h", "--help"):
        print(overview(program))
        return 0
    verb, *arguments = words
    if verb not in VERBS:
        print(f"{ERROR}{unknown('verb', verb, VERBS, program)}", file=sys.stderr)
        return BAD_INPUT
    command = importlib.import_module(_module_name(verb))
    args = parser_of(command, f"{program} {verb}").parse_args(arguments)
    cli.log_to_stderr()
    logging.getLogger("botocore").setLevel(logging.WARNING)  # at INFO it reports where credentials come from
    return cli.main(lambda: command.run(args), args, getattr(command, "show", None))


def parser_of(command: ModuleType, prog: str) -> Parser:
    """The parser of a verb's module."""
    parser = cli.parser(command.__doc__, prog)
    command.add_arguments(parser)
    return parser


def overview(program: str) -> str:
    """Help without a verb: every verb with its summary, in groups."""
    lines = [
        f"usage: {program} <verb> [--help] ...",
        "",
        "Image features on Amazon EMR.",
    ]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:", *(f"  {verb:14} {_summary(verb)}" for verb in verbs)]
    return "\n".join([*lines, "", f"Each verb has --json and --help. {cli.EXIT_CODES}"])


def _module_name(verb: str) -> str:
    return f"{__package__}.{verb.replace('-', '_')}"


def _summary(verb: str) -> str:
    """First line of the docstring of a verb's module."""
    source = Path(__file__).with_name(f"{verb.replace('-', '_')}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
