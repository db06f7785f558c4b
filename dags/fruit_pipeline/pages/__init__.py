"""HTML pages in one file each: templates, their look, and the policy that keeps them offline.

Jinja2 escapes every value. A page's Content-Security-Policy names its own style and script by their
digests: nothing else in it runs, styles or fetches, not even what got past the escaping.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import jinja2

_FOLDER = Path(__file__).parent
_LOOK = "look.css"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, *, style: str = "", script: str = "", **values: Any) -> str:
    """A page from a template of this folder; ``values`` are text, numbers, or what holds them.

    ``style`` is CSS after the shared look, ``script`` JavaScript at the end of the body; both are
    the project's own and are not escaped.
    """
    style = f"{asset(_LOOK)}\n{style}"
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src {_digest(style)}",
        f"script-src {_digest(script)}" if script else "",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return (
        _environment()
        .get_template(template)
        .render(style=style, script=script, policy="; ".join(filter(None, policy)), **values)
    )


def asset(name: str) -> str:
    """Text of a file of this folder."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
