"""The page on hostile inputs says what the code does."""

from __future__ import annotations

from pathlib import Path

import pytest

from fruit_pipeline.run.request import DEFAULT_MAX_REJECT_RATE
from fruit_pipeline.sample.sources import MAX_FILE_BYTES
from image_features import decoder_limits
from image_features.contract import RejectReason
from image_features.images import BYTES_PER_PIXEL, DEFAULT_MAX_PIXELS


@pytest.fixture(scope="module")
def page(repo: Path) -> str:
    return " ".join((repo / "docs" / "hostile-inputs.md").read_text().split())


@pytest.mark.parametrize("reason", RejectReason)
def test_each_reason_has_an_input(reason: RejectReason, page: str) -> None:
    assert f"| `{reason}`" in page


def test_the_limits_are_those_of_the_code(page: str) -> None:
    assert f"JPEG of more than {decoder_limits.MAX_SCANS} scans" in page
    assert (
        f"more than {decoder_limits.MAX_TILES:,} tiles, more than {decoder_limits.MAX_COMPONENTS} components"
        in page
    )
    assert f"a file of more than {MAX_FILE_BYTES >> 20} MB" in page
    assert f"`max_reject_rate` (Param, {DEFAULT_MAX_REJECT_RATE};" in page
    gigabytes = BYTES_PER_PIXEL * DEFAULT_MAX_PIXELS / 1e9
    assert (
        f"at most {BYTES_PER_PIXEL} bytes a pixel in addition to the file: {gigabytes:.1f} GB at the default"
        in page
    )
    assert f"`max_pixels` of {DEFAULT_MAX_PIXELS:,}" in page
