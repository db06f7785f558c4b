"""Draws images of fruit-like shapes, twelve kinds of them, for the demo and for tests without data.

The same arguments give the same pixels. Images are JPEG, 100 x 100.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIZE = 100


@dataclass(frozen=True)
class Kind:
    """One label: skin colour, width over height, and what is drawn on it."""

    label: str
    colour: tuple[int, int, int]
    aspect: float
    feature: str  # "stem", "leaf", "spots", "stripes", "segments", "pair"


KINDS = (
    Kind("Apple red", (190, 30, 45), 1.05, "stem"),
    Kind("Apple green", (130, 180, 60), 1.0, "stem"),
    Kind("Apricot", (240, 160, 70), 1.0, "stripes"),
    Kind("Banana", (240, 215, 80), 3.2, "stem"),
    Kind("Blueberry", (70, 80, 150), 1.0, "spots"),
    Kind("Cherry", (150, 10, 30), 1.0, "pair"),
    Kind("Cucumber", (60, 120, 50), 3.6, "spots"),
    Kind("Kiwi", (130, 110, 60), 1.25, "segments"),
    Kind("Lemon", (245, 225, 60), 1.45, "leaf"),
    Kind("Orange", (240, 140, 20), 1.0, "segments"),
    Kind("Plum", (90, 40, 110), 0.85, "stripes"),
    Kind("Watermelon", (40, 120, 60), 1.15, "stripes"),
)


def draw_folder(folder: Path, per_label: int = 40) -> int:
    """Draw ``per_label`` images of each kind into one sub-folder a label; return their number.

    Existing files are kept: drawing them again would give the same bytes.
    """
    for kind in KINDS:
        (folder / kind.label).mkdir(parents=True, exist_ok=True)
        for number in range(per_label):
            path = folder / kind.label / f"{number:03d}.jpg"
            if not path.exists():
                # A file gets its name when it is complete: an interrupted draw leaves no part of one.
                part = path.with_suffix(".part")
                part.write_bytes(draw_image(kind, number))
                part.rename(path)
    return len(KINDS) * per_label


def draw_image(kind: Kind, number: int) -> bytes:
    """One JPEG of ``kind``; ``number`` seeds its rotation, size, brightness and details."""
    rng = random.Random(f"{kind.label}/{number}")  # noqa: S311 - a drawing, not a secret
    scale = 4  # of the drawing, which is reduced at the end for smooth edges
    side = SIZE * scale
    image = Image.new("RGB", (side, side), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    reach = side * rng.uniform(0.30, 0.40)
    half_w, half_h = reach * min(1.0, kind.aspect / 1.2), reach * min(1.0, 1.2 / kind.aspect)
    light = rng.uniform(0.85, 1.1)
    skin = tuple(min(255, int(c * light + rng.uniform(-10, 10))) for c in kind.colour)
    dark = tuple(int(c * 0.6) for c in skin)
    middle = side / 2
    centres = (
        [(middle - reach * 0.45, middle), (middle + reach * 0.45, middle)] if kind.feature == "pair" else []
    )
    if centres:
        half_w, half_h = half_w * 0.5, half_h * 0.5
    for cx, cy in centres or [(middle, middle)]:
        # Rings from dark to light give the body a round appearance.
        for ring in range(12):
            left = 1 - ring / 14
            shade = tuple(
                min(255, int(d + (s - d) * (0.5 + ring / 16))) for d, s in zip(dark, skin, strict=True)
            )
            pen.ellipse(
                (
                    cx - half_w * left,
                    cy - half_h * left,
                    cx + half_w * left * 0.97,
                    cy + half_h * left * 0.95,
                ),
                fill=shade,
            )
    _details(pen, kind, rng, middle, half_w, half_h, dark)
    turned = image.rotate(rng.uniform(0, 360), resample=Image.Resampling.BICUBIC, fillcolor=(255, 255, 255))
    small = turned.filter(ImageFilter.GaussianBlur(scale / 2)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=90)
    return sink.getvalue()


def _details(
    pen: ImageDraw.ImageDraw,
    kind: Kind,
    rng: random.Random,
    middle: float,
    half_w: float,
    half_h: float,
    dark: tuple[int, ...],
) -> None:
    if kind.feature in ("stem", "leaf", "pair"):
        pen.line((middle, middle - half_h, middle + 18, middle - half_h - 50), fill=(90, 60, 30), width=12)
    if kind.feature == "leaf":
        pen.ellipse(
            (middle + 10, middle - half_h - 50, middle + 90, middle - half_h - 10), fill=(60, 140, 60)
        )
    if kind.feature == "spots":
        for _ in range(22):
            turn, far = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random()) * 0.8
            x, y = middle + math.cos(turn) * far * half_w, middle + math.sin(turn) * far * half_h
            pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=dark)
    if kind.feature == "stripes":
        for offset in (-0.5, 0.0, 0.5):
            x = middle + offset * half_w
            high = half_h * math.sqrt(1 - offset * offset) * 0.9
            pen.arc((x - 14, middle - high, x + 14, middle + high), 90, 270, fill=dark, width=8)
    if kind.feature == "segments":
        for spoke in range(8):
            turn = spoke * math.pi / 4
            end = (middle + math.cos(turn) * half_w * 0.8, middle + math.sin(turn) * half_h * 0.8)
            pen.line((middle, middle, *end), fill=dark, width=6)
