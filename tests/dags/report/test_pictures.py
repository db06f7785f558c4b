"""The report's pictures are the pixels that the backbone got."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fruit_pipeline.report.pictures import picture, preview
from image_features.images import decode_rgb
from image_features.pixels import BACKGROUND


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format)
    return sink.getvalue()


def transparent(hidden: int) -> bytes:
    pixels = np.full((60, 90, 4), (hidden, hidden, hidden, 0), np.uint8)
    pixels[20:40, 30:60] = (200, 30, 30, 255)
    return encoded(pixels)


TWELVE_BITS = encoded(np.tile(np.linspace(0, 4095, 256).astype(np.uint16), (64, 1)), "TIFF")
DARK = encoded(np.tile(np.linspace(4096, 8191, 256).astype(np.uint16), (64, 1)), "TIFF")


@pytest.mark.parametrize("content", [transparent(0), transparent(255), TWELVE_BITS, DARK])
def test_a_picture_is_what_the_decoder_of_the_run_gives(content: bytes) -> None:
    shown = picture(content, 112, input_size=112)
    assert shown is not None
    assert np.array_equal(np.asarray(shown), decode_rgb(content, 112))
    larger = picture(content, 112, input_size=224)
    assert larger is not None
    assert larger.size == (112, 112)
    assert abs(np.asarray(larger).mean() - decode_rgb(content, 224).mean()) < 1


def test_two_files_that_differ_only_in_hidden_colours_look_alike_and_are_alike() -> None:
    first, second = picture(transparent(0), 64), picture(transparent(255), 64)
    assert first is not None
    assert second is not None
    assert first.tobytes() == second.tobytes()
    assert first.getpixel((0, 0)) == BACKGROUND


def test_a_picture_over_the_run_s_limit_is_not_decoded_and_one_within_it_is() -> None:
    content = encoded(np.zeros((60, 90, 3), np.uint8))
    assert picture(content, 64, max_pixels=5399) is None
    assert picture(content, 64, max_pixels=5400) is not None


def test_a_reject_without_a_fixed_range_is_shown_in_its_own() -> None:
    content = encoded(np.tile(np.linspace(-5, 1e6, 64).astype(np.float32), (64, 1)), "TIFF")
    assert picture(content, 64) is None
    shown = preview(content, 64)
    assert shown is not None
    assert np.asarray(shown).min() == 0
    assert np.asarray(shown).max() == 255
