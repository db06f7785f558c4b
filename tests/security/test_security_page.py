"""SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_test_that_the_page_names_is_there(repo: Path) -> None:
    named = set(re.findall(r"`((?:tests/\w+/)?test_\w+\.py)`", (repo / "SECURITY.md").read_text()))
    assert len(named) > 10
    places = [repo / name if name.startswith("tests/") else repo / "tests/security" / name for name in named]
    assert [str(path) for path in places if not path.is_file()] == []
