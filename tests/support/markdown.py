"""The project's Markdown: its pages, code blocks, commands, links and headings."""

from __future__ import annotations

import os
import re
from pathlib import Path

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_ID = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")

_MADE = ("demo-output", "node_modules")  # folders with pages that are not the project's


def pages(repo: Path) -> list[Path]:
    """Every Markdown file of the project."""
    found: list[Path] = []
    for folder, folders, names in os.walk(repo):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _MADE]
        found += (Path(folder, name) for name in names if name.endswith(".md"))
    return sorted(found)


def blocks(markdown: str, *languages: str) -> list[str]:
    """Contents of the fenced blocks of these languages; of all without any."""
    found = _BLOCK.findall(markdown)
    return [text for language, text in found if not languages or language in languages]


def spans(markdown: str) -> list[str]:
    """Inline code."""
    return _SPAN.findall(_BLOCK.sub("", markdown))


def commands(markdown: str) -> list[str]:
    """Every command of the shell blocks; continued lines are joined, comments and prompts left out."""
    text = "\n".join(blocks(markdown, "bash", "console", "sh"))
    lines = text.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ") for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def links(markdown: str) -> list[str]:
    """Targets of the links, code left out."""
    return _LINK.findall(_SPAN.sub("", _BLOCK.sub("", markdown)).replace("[]", "[code]"))


def anchors(markdown: str) -> set[str]:
    """Anchors of a page's headings as GitHub makes them, and those set by hand."""
    found: set[str] = set(_ID.findall(markdown))
    for heading in _HEADING.findall(_BLOCK.sub("", markdown)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count, made = 0, slug
        while made in found:
            count += 1
            made = f"{slug}-{count}"
        found.add(made)
    return found


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables: rows of cells, without header and rule; a `|` in code is written `\\|`."""
    found: list[list[list[str]]] = []
    last = -2
    for number, line in enumerate(_BLOCK.sub("", markdown).splitlines()):
        if not line.startswith("|"):
            continue
        if number != last + 1:
            found.append([])
        last = number
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        found[-1].append([cell.strip().replace("\\|", "|") for cell in cells])
    return [table[2:] for table in found]
