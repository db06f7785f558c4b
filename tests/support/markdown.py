"""A reader of the project's Markdown: pages, code blocks, commands, links, headings, tables."""

from __future__ import annotations

import os
import re
from pathlib import Path

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
_ID = re.compile(r"<a (?:id|name)=\"([^\"]+)\"")

_EXCLUDED = ("demo-output", "node_modules")  # folders with pages of others


def pages(repo: Path) -> list[Path]:
    """Every Markdown file of the project."""
    files: list[Path] = []
    for folder, folders, names in os.walk(repo):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _EXCLUDED]
        files += (Path(folder, name) for name in names if name.endswith(".md"))
    return sorted(files)


def blocks(markdown: str, *languages: str) -> list[str]:
    """Contents of the fenced blocks in these languages; of all blocks if no language is given."""
    return [text for language, text in _BLOCK.findall(markdown) if not languages or language in languages]


def spans(markdown: str) -> list[str]:
    """Inline code."""
    return _SPAN.findall(_BLOCK.sub("", markdown))


def commands(markdown: str) -> list[str]:
    """Every command of the shell blocks, without comments and prompts; continued lines are joined."""
    text = "\n".join(blocks(markdown, "bash", "console", "sh"))
    lines = text.replace("\\\n", " ").splitlines()
    lines = [re.sub(r"\s+#\s.*$", "", line).strip().removeprefix("$ ") for line in lines]
    return [line for line in lines if line and not line.startswith("#")]


def links(markdown: str) -> list[str]:
    """Targets of the links outside code."""
    return _LINK.findall(_SPAN.sub("", _BLOCK.sub("", markdown)).replace("[]", "[code]"))


def anchors(markdown: str) -> set[str]:
    """Anchors of a page: those that GitHub makes of its headings, and those set by hand."""
    anchors: set[str] = set(_ID.findall(markdown))
    for heading in _HEADING.findall(_BLOCK.sub("", markdown)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count, anchor = 0, slug
        while anchor in anchors:
            count += 1
            anchor = f"{slug}-{count}"
        anchors.add(anchor)
    return anchors


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables, as rows of cells without header and rule. A `|` in code is written `\\|`."""
    tables: list[list[list[str]]] = []
    last = -2
    for number, line in enumerate(_BLOCK.sub("", markdown).splitlines()):
        if not line.startswith("|"):
            continue
        if number != last + 1:
            tables.append([])
        last = number
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        tables[-1].append([cell.strip().replace("\\|", "|") for cell in cells])
    return [table[2:] for table in tables]
