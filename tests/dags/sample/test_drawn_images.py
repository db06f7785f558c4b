"""Drawn images are the same everywhere, and no two are alike."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from fruit_pipeline.sample.drawn_images import KINDS, draw_folder, draw_image


def test_the_same_arguments_draw_the_same_bytes() -> None:
    assert all(draw_image(kind, 3) == draw_image(kind, 3) for kind in KINDS[:3])


def test_no_two_images_are_alike() -> None:
    drawn = {draw_image(kind, number) for kind in KINDS for number in range(2)}
    assert len(drawn) == 2 * len(KINDS)


def test_images_are_small_rgb_jpegs() -> None:
    with Image.open(io.BytesIO(draw_image(KINDS[0], 0))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (100, 100), "RGB")


def test_a_folder_has_one_sub_folder_a_kind(tmp_path: Path) -> None:
    assert draw_folder(tmp_path, 1) == len(KINDS)
    assert {path.name for path in tmp_path.iterdir()} == {kind.label for kind in KINDS}
