"""README.fr.md has the structure, links, code and figures of README.md."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest

from support import markdown

REPO = Path(__file__).resolve().parents[2]
PAGES = {"en": REPO / "README.md", "fr": REPO / "README.fr.md"}
OTHER = {"en": "README.fr.md", "fr": "README.md"}

_LINE_OF_LANGUAGE = re.compile(r"^\*\[[^\]]+\]\(README(?:\.fr)?\.md\)\*\n+", re.MULTILINE)
_FENCED = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)|\b(?:src|srcset)=\"([^\"]+)\"")
_ALT_TEXT = re.compile(r"!\[([^\]]*)\]|\balt=\"([^\"]*)\"")
_CODE = re.compile(r"`[^`]+`")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?:e-?\d+)?")
_THIN = "\N{NARROW NO-BREAK SPACE}"


def text_of(language: str) -> str:
    """The page without its link to the other language."""
    return _LINE_OF_LANGUAGE.sub("", PAGES[language].read_text())


def prose(language: str) -> str:
    return _FENCED.sub("```", text_of(language))


def paragraphs(language: str) -> list[str]:
    """Paragraphs, headings, list items and table rows, each in one line, without code blocks."""
    parts = re.split(r"\n{2,}|\n(?=- |\|)", prose(language))
    return [" ".join(part.split("\n")).strip() for part in parts]


def figures(language: str, text: str) -> list[str]:
    """Numbers outside code and URLs, in the same notation for both languages: 67692, 0.26."""
    text = re.sub(r"\]\([^)]*\)|https?:\S+", " ", _CODE.sub("", text))
    if language == "fr":
        text = re.sub(rf"(?<=\d){_THIN}(?=\d{{3}})", "", text)
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    else:
        text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return _NUMBER.findall(text)


def without_comments(block: str) -> list[str]:
    return [re.sub(r"(?:^|\s+)#\s.*$", "", line) for line in block.splitlines()]


@pytest.mark.parametrize("language", ["en", "fr"])
def test_each_leads_to_the_other(language: str) -> None:
    assert OTHER[language] in markdown.links(PAGES[language].read_text())
    assert OTHER[language] not in text_of(language)


def test_headings_have_the_same_levels() -> None:
    levels = {at: re.findall(r"^#+(?= )", prose(at), re.MULTILINE) for at in PAGES}
    assert len(levels["en"]) > 5
    assert levels["fr"] == levels["en"]


def test_links_and_images_are_the_same() -> None:
    assert markdown.links(text_of("fr")) == markdown.links(text_of("en"))
    images = {at: _IMAGE.findall(prose(at)) for at in PAGES}
    assert images["en"]
    assert images["fr"] == images["en"]


def test_texts_of_images_are_translated() -> None:
    texts = {at: ["".join(groups) for groups in _ALT_TEXT.findall(prose(at))] for at in PAGES}
    assert all(texts["fr"])
    assert not set(texts["fr"]) & set(texts["en"])


def test_code_blocks_differ_in_comments_only() -> None:
    blocks = {at: [without_comments(block) for block in markdown.blocks(text_of(at))] for at in PAGES}
    assert blocks["en"]
    assert blocks["fr"] == blocks["en"]


def test_tables_have_the_same_cells_and_figures() -> None:
    tables = {at: [row for table in markdown.tables(text_of(at)) for row in table] for at in PAGES}
    assert [len(row) for row in tables["fr"]] == [len(row) for row in tables["en"]]
    for french, english in zip(tables["fr"], tables["en"], strict=True):
        for in_french, in_english in zip(french, english, strict=True):
            assert figures("fr", in_french) == figures("en", in_english), in_french


def test_every_paragraph_has_the_same_code_and_figures() -> None:
    for french, english in zip_longest(paragraphs("fr"), paragraphs("en"), fillvalue=""):
        both = f"{english}\n{french}"
        assert sorted(_CODE.findall(french)) == sorted(_CODE.findall(english)), both
        assert sorted(figures("fr", french)) == sorted(figures("en", english)), both


def test_french_signs_do_not_begin_a_line() -> None:
    text = _CODE.sub("", prose("fr"))
    assert re.findall(r".*(?: [:;?!%»]|« |\d [\d%]).*", text) == []
