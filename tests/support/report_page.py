"""Small finished runs for the tests of a run's report, and what its page holds."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fruit_pipeline.report.build import Report, make
from image_features.contract import RunLayout

HOSTILE = "<script>window.hacked = 1; <!--"
HOSTILE_IMAGE = f"{HOSTILE}/a</script><script>window.hacked = 2; '\" &amp;.jpg"
VOID = ("meta", "input", "rect", "line", "circle", "polyline")


class Page(HTMLParser):
    """Elements, texts, tables and data of a page, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.by_id: dict[str, str] = {}
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._stack: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()
        assert self._stack == [], "an element is not closed"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())

    @property
    def data(self) -> dict[str, Any]:
        """What the script of the maps reads."""
        return json.loads(self.by_id["data"])

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self._stack.append((tag, dict(attributes).get("id")))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._stack.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self._stack:
            if name:
                self.by_id[name] = self.by_id.get(name, "") + data
        open_tags = [tag for tag, _ in self._stack]
        if {"td", "th"} & set(open_tags):
            self.rows[-1][-1] += " ".join(data.split())
        if not {"script", "style"} & set(open_tags):
            self.words.append(data)


def report_of(run: Path | str, **more: Any) -> tuple[Report, Page, str]:
    """The report of a run, its page as parsed, and the HTML."""
    bodies: list[bytes] = []

    def save(body: bytes) -> str:
        bodies.append(body)
        return "here"

    report = make(RunLayout(str(run)), save=save, **more)
    html = bodies[0].decode()
    return report, Page(html), html


def pick(drawn: Path, folder: Path, labels: list[str], per_label: int) -> Path:
    """A folder with the first images of some labels."""
    for label in labels:
        (folder / label).mkdir(parents=True)
        for image in sorted((drawn / label).glob("*.jpg"))[:per_label]:
            shutil.copy(image, folder / label)
    return folder


def hostile_source(drawn: Path, folder: Path) -> Path:
    """Two honest labels, and one whose name and images want to be markup."""
    pick(drawn, folder, ["Apricot", "Plum"], 3)
    (folder / HOSTILE).mkdir()
    for number, image in enumerate(sorted((drawn / "Banana").glob("*.jpg"))[:3]):
        target = folder / (HOSTILE_IMAGE if not number else f"{HOSTILE}/{number}.jpg")
        target.parent.mkdir(exist_ok=True)
        shutil.copy(image, target)
    (folder / HOSTILE / "<b>empty.jpg").touch()
    return folder
