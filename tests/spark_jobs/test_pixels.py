"""Transparency and samples of 16 bits become 8-bit RGB by one rule for all formats, and are counted."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_features.contract import Conversion
from image_features.images import Decoded, decode

SIZE = 64
RAMP = np.linspace(0, 1, SIZE)
"""Brightness of the columns of a picture of SIZE x SIZE, which the resize leaves as it is."""


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def decoded(content: bytes) -> Decoded:
    return decode(content, SIZE)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def ramp(bits: int) -> np.ndarray:
    """Samples from black to white in a range of ``bits``, not scaled to 16."""
    return np.tile((RAMP * (2**bits - 1)).astype(np.uint16), (SIZE, 1))


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    """A 16-bit PNG of (h, w) grey, or (h, w, 2, 3 or 4) samples."""
    samples = values.reshape(*values.shape[:2], -1)
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[samples.shape[2]]
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(chunks) + data + chunk(b"IEND", b"")


def tiff(values: np.ndarray, order: str = "<") -> bytes:
    """A 16-bit TIFF of (h, w) grey or (h, w, 3) samples, uncompressed."""
    samples = values.reshape(*values.shape[:2], -1)
    depth = samples.shape[2]
    data = samples.astype(f"{order}u2").tobytes()
    bits_at, start = 8, 14
    rows = [
        (256, 4, 1, values.shape[1]),
        (257, 4, 1, values.shape[0]),
        (258, 3, depth, bits_at if depth > 1 else 16),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if depth == 3 else 1),
        (273, 4, 1, start),
        (277, 3, 1, depth),
        (278, 4, 1, values.shape[0]),
        (279, 4, 1, len(data)),
    ]
    body = b"".join(
        struct.pack(f"{order}HHI", tag, kind, count)
        + struct.pack(f"{order}{'I' if kind == 4 or count > 1 else 'H2x'}", value)
        for tag, kind, count, value in rows
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start + len(data))
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    return head + bits + data + struct.pack(f"{order}H", len(rows)) + body + bytes(4)


def disc(alpha: np.ndarray, hidden: int) -> np.ndarray:
    """RGBA: a red centre with its alpha, and ``hidden`` grey where the alpha is zero."""
    pixels = np.full((SIZE, SIZE, 4), hidden, np.uint8)
    pixels[16:48, 16:48, :3] = (200, 30, 30)
    pixels[..., 3] = alpha
    return pixels


HARD = np.zeros((SIZE, SIZE), np.uint8)
HARD[16:48, 16:48] = 255
ON_WHITE = np.full((SIZE, SIZE, 3), 255, np.uint8)
ON_WHITE[16:48, 16:48] = (200, 30, 30)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True, "exact": True}),
        ("JPEG2000", {}),
    ],
)
@pytest.mark.parametrize("hidden", [0, 128, 255])
def test_transparent_pixels_are_white_whatever_colour_is_hidden_beneath_them(
    format: str, options: dict[str, Any], hidden: int
) -> None:
    image = decoded(encoded(Image.fromarray(disc(HARD, hidden)), format, **options))
    assert np.array_equal(image.rgb, ON_WHITE)
    assert image.conversions == {Conversion.TRANSPARENT}


def test_a_half_transparent_pixel_is_mixed_with_white_in_proportion() -> None:
    image = decoded(encoded(Image.fromarray(disc(np.full((SIZE, SIZE), 51, np.uint8), 0)), "PNG"))
    assert image.rgb[32, 32].tolist() == [244, 210, 210]  # 0.2 x (200, 30, 30) + 0.8 x 255
    assert image.rgb[0, 0].tolist() == [204, 204, 204]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_an_opaque_alpha_channel_changes_nothing_and_is_not_counted(format: str) -> None:
    pixels = disc(np.full((SIZE, SIZE), 255, np.uint8), 90)
    options = {"lossless": True} if format == "WEBP" else {}
    image = decoded(encoded(Image.fromarray(pixels), format, **options))
    assert np.array_equal(image.rgb, pixels[..., :3])
    assert image.conversions == frozenset()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_png_s_transparent_colour_is_white(mode: str) -> None:
    image = Image.new("RGB", (SIZE, SIZE), "black")
    image.paste((255, 255, 255), (0, 0, SIZE, 20))
    picture = image.convert(mode)
    black: Any = {"P": picture.getpixel((0, 63)), "RGB": (0, 0, 0)}.get(mode, 0)
    found = decoded(encoded(picture, "PNG", transparency=black))
    assert found.rgb.min() == 255
    assert found.conversions == {Conversion.TRANSPARENT}


def test_a_palette_with_an_alpha_for_each_colour_is_composited_on_white() -> None:
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([0, 0, 0, 200, 30, 30])
    found = decoded(encoded(image, "PNG", transparency=b"\xff\x33"))
    assert found.rgb[0, 0].tolist() == [244, 210, 210]


def test_the_transparent_surround_of_a_gif_is_white() -> None:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([0, 0, 0, 200, 30, 30])
    image.paste(1, (16, 16, 48, 48))
    assert np.array_equal(decoded(encoded(image, "GIF", transparency=0)).rgb, ON_WHITE)


@pytest.mark.parametrize("bits", [9, 10, 12, 14])
def test_a_png_s_significant_bits_are_the_range_of_its_grey(bits: int) -> None:
    image = decoded(png16(ramp(bits), chunk(b"sBIT", bytes([bits]))))
    assert np.array_equal(image.rgb[0, :, 0], ramp(bits)[0] >> (bits - 8))
    assert image.rgb.max() == 255
    assert image.conversions == {Conversion.FROM_16_BIT}


def test_less_than_8_significant_bits_fill_the_range_too() -> None:
    image = decoded(png16(ramp(5), chunk(b"sBIT", b"\x05")))
    assert np.array_equal(image.rgb[0, :, 0], ramp(5)[0].astype(int) * 255 // 31)


@pytest.mark.parametrize("bits", [10, 12])
def test_samples_that_are_scaled_to_16_bits_as_png_demands_are_not_scaled_again(bits: int) -> None:
    values = ramp(bits) << (16 - bits)
    image = decoded(png16(values, chunk(b"sBIT", bytes([bits]))))
    assert np.array_equal(image.rgb[0, :, 0], values[0] >> 8)


def test_a_dark_png_that_declares_16_bits_stays_dark() -> None:
    image = decoded(png16(ramp(12), chunk(b"sBIT", b"\x10")))
    assert image.rgb.max() == 15
    assert image.conversions == {Conversion.FROM_16_BIT}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("TIFF", tiff(ramp(12))),
        ("TIFF of the other byte order", tiff(ramp(12), order=">")),
        ("TIFF, compressed", encoded(Image.fromarray(ramp(12)), "TIFF", compression="tiff_deflate")),
        ("PNG", png16(ramp(12))),
        ("PNG, colour", png16(np.repeat(ramp(12)[..., None], 3, 2))),
        ("TIFF, colour", tiff(np.repeat(ramp(12)[..., None], 3, 2))),
        ("TIFF, colour, other byte order", tiff(np.repeat(ramp(12)[..., None], 3, 2), order=">")),
        ("PGM", b"P5 64 64 65535\n" + ramp(12).astype(">u2").tobytes()),
        ("PGM, plain", b"P2 64 64 65535\n" + b" ".join(b"%d" % v for v in ramp(12).ravel())),
    ],
)
def test_12_bit_data_without_a_declared_range_is_not_black_and_is_counted(name: str, content: bytes) -> None:
    image = decoded(content)
    assert np.array_equal(image.rgb[0], np.repeat((ramp(12)[0] >> 4)[:, None], 3, 1)), name
    assert image.conversions == {Conversion.ASSUMED_12_BIT}


def test_one_value_above_12_bits_means_16() -> None:
    values = ramp(12)
    values[0, 0] = 4096
    image = decoded(tiff(values))
    assert image.rgb[1:].max() == 15
    assert image.conversions == {Conversion.FROM_16_BIT}


def test_a_black_16_bit_picture_is_no_assumption() -> None:
    assert decoded(png16(np.zeros((SIZE, SIZE), np.uint16))).conversions == {Conversion.FROM_16_BIT}


@pytest.mark.parametrize("plain", [True, False])
def test_the_maximum_of_a_pgm_is_its_range_and_no_assumption(plain: bool) -> None:
    values = ramp(12) // 2  # a dark picture in a range of 12 bits
    body = b" ".join(b"%d" % v for v in values.ravel()) if plain else values.astype(">u2").tobytes()
    image = decoded((b"P2" if plain else b"P5") + b" 64 64 4095\n" + body)
    assert np.abs(image.rgb[0, :, 0].astype(int) - (values[0].astype(int) * 255 // 4095)).max() <= 1
    assert image.conversions == {Conversion.FROM_16_BIT}


def test_colour_of_16_bits_is_its_high_bytes() -> None:
    values = np.random.default_rng(2).integers(0, 2**16, (SIZE, SIZE, 3)).astype(np.uint16)
    for content in (png16(values), tiff(values), tiff(values, order=">")):
        image = decoded(content)
        assert np.array_equal(image.rgb, values >> 8)
        assert image.conversions == {Conversion.FROM_16_BIT}


def test_a_black_drawing_with_a_16_bit_alpha_is_black_on_white() -> None:
    values = np.zeros((SIZE, SIZE, 4), np.uint16)
    values[16:48, 16:48, 3] = 65535
    for samples in (values, values[..., 2:]):
        image = decoded(png16(samples))
        assert image.rgb[32, 32].tolist() == [0, 0, 0]
        assert image.rgb[0, 0].tolist() == [255, 255, 255]
        assert image.conversions == {Conversion.FROM_16_BIT, Conversion.TRANSPARENT}


@pytest.mark.parametrize("colour", [False, True])
def test_the_transparent_colour_of_a_16_bit_png_is_white(colour: bool) -> None:
    values = np.full((SIZE, SIZE, 3) if colour else (SIZE, SIZE), 0x4000, np.uint16)
    values[16:48, 16:48] = 0x8000
    key = struct.pack(">3H", *[0x4000] * 3) if colour else struct.pack(">H", 0x4000)
    image = decoded(png16(values, chunk(b"tRNS", key)))
    assert image.rgb[0, 0].tolist() == [255, 255, 255]
    assert image.rgb[32, 32].tolist() == [128, 128, 128]
    assert image.conversions == {Conversion.FROM_16_BIT, Conversion.TRANSPARENT}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_nothing_is_done_to_a_jpeg_of_8_bits(mode: str) -> None:
    content = encoded(Image.fromarray(disc(HARD, 50)[..., :3]).convert(mode), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        expected = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    found = decoded(content)
    assert np.array_equal(found.rgb, expected)
    assert found.conversions == frozenset()
