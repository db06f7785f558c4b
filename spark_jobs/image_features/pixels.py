"""Converts the pixels of a decoded image to RGB of 8 bits, the same way for every file format.

An image with transparency is composited on white. Samples of 16 bits are reduced by the range that the file
declares. Where it declares none and no value is above 4,095, the data is taken to be of 12 bits: cameras and
microscopes store it unscaled, and in a range of 16 bits it would be black. Pixels without a range are
refused. What was done to an image is returned with it, so that it can be counted.
"""

from __future__ import annotations

import io
import struct
import sys
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from image_features.contract import Conversion

BACKGROUND = (255, 255, 255)
"""The colour behind transparent pixels: most pictures with transparency are made for a white page."""

UNDECLARED_BITS = 12
"""Bits of the data in 16-bit samples, where the file declares none and no value needs more."""

_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class NoRange(Exception):
    """The pixels have no agreed range, so no conversion to 8 bits would be right."""


@dataclass(frozen=True)
class Samples:
    """How a file stores its samples. Pillow forgets it when it loads the pixels."""

    declared_bits: int | None  # of a sample, 1 to 16; None: no more is declared than samples of 16 bits
    colour_raw_mode: str | None  # Pillow's raw mode of 16-bit colour, of which it keeps the high bytes only

    @classmethod
    def of(cls, image: ImageFile.ImageFile, content: bytes) -> Samples:
        """Of an image that is opened and not loaded. ``content``: the file's bytes."""
        tile = image.tile[0] if image.tile else None
        arguments = tile.args if tile else None
        raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        is_colour = image.mode in ("RGB", "RGBA") and isinstance(raw_mode, str) and ";16" in raw_mode
        return cls(_declared_bits(image, content), str(raw_mode) if is_colour else None)


def to_rgb(
    image: ImageFile.ImageFile, content: bytes, samples: Samples
) -> tuple[Image.Image, frozenset[Conversion]]:
    """A loaded image as RGB, and what was done to it. Raises NoRange, or what Pillow raises."""
    done: set[Conversion] = set()
    converted: Image.Image = image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        values = np.asarray(image).astype(np.uint16)  # Pillow scales a PGM to 65,535
        converted = Image.fromarray(_eight_bits(values, samples.declared_bits, done))
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            converted.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    elif image.mode in ("F", "I"):
        raise NoRange(f"pixel mode {image.mode} has no fixed range")
    elif samples.colour_raw_mode:
        converted = _deep_colour(image, content, samples, done)
    if converted.has_transparency_data:
        converted = _on_white(converted, done)
    return converted if converted.mode == "RGB" else converted.convert("RGB"), frozenset(done)


def _on_white(image: Image.Image, done: set[Conversion]) -> Image.Image:
    image = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    lowest, _ = image.getchannel("A").getextrema()
    if lowest == 255:  # opaque in fact
        return image
    done.add(Conversion.TRANSPARENT)
    flat = Image.new("RGB", image.size, BACKGROUND)
    flat.paste(image, mask=image)
    return flat


def _eight_bits(
    values: npt.NDArray[np.uint16], declared_bits: int | None, done: set[Conversion]
) -> npt.NDArray[np.uint8]:
    """Samples of 16 bits as 8 bits: the high byte of their range."""
    brightest = int(values.max())
    bits = declared_bits or UNDECLARED_BITS
    if brightest >> bits:  # the samples fill 16 bits, as the PNG standard demands also with an sBIT
        bits = 16
    assumed = declared_bits is None and bits < 16 and brightest > 0
    done.add(Conversion.ASSUMED_12_BIT if assumed else Conversion.FROM_16_BIT)
    if bits >= 8:
        return (values >> (bits - 8)).astype(np.uint8)
    return (values * np.uint16(255) // np.uint16(2**bits - 1)).astype(np.uint8)


def _deep_colour(
    image: ImageFile.ImageFile, content: bytes, samples: Samples, done: set[Conversion]
) -> Image.Image:
    """Colour of 16 bits: the high bytes, which Pillow keeps, unless the data is of fewer bits."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    bits = samples.declared_bits or UNDECLARED_BITS
    brightest = max(highest for _, highest in image.getextrema())  # type: ignore[misc]
    if brightest >> max(bits - 8, 0):
        done.add(Conversion.FROM_16_BIT)
        return image
    raw_mode = samples.colour_raw_mode or ""
    other_bytes = raw_mode[:-1] + _SWAPPED[raw_mode[-1]]
    with Image.open(io.BytesIO(content), formats=(image.format or "",)) as again:
        again.tile = [
            tile._replace(args=(other_bytes, *tile.args[1:]) if isinstance(tile.args, tuple) else other_bytes)
            for tile in again.tile
        ]
        again.load()
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(again)
    return Image.fromarray(_eight_bits(values, samples.declared_bits, done), image.mode)


def _declared_bits(image: ImageFile.ImageFile, content: bytes) -> int | None:
    """Bits by PNG's sBIT, TIFF's BitsPerSample or PGM's maximum.

    TIFF's MaxSampleValue is not used: TIFF 6.0 forbids it to affect the appearance.
    """
    if image.format == "PNG":
        return _significant_bits(content)
    if image.format == "TIFF":
        bits = image.tag_v2.get(258) or (16,)  # type: ignore[attr-defined]
        return bits[0] if 0 < bits[0] < 16 else None
    if image.format == "PPM" and image.tile:
        # Another maximum than 65,535 is a declaration, by which Pillow scales the samples to 16 bits.
        arguments = image.tile[0].args
        return 16 if isinstance(arguments, tuple) and arguments[1] != 65535 else None
    return None


def _significant_bits(png: bytes) -> int | None:
    """The largest value of a PNG's sBIT chunk, which comes before palette and data (PNG, 11.3.2)."""
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, at)
        if kind == b"sBIT":
            bits = max(png[at + 8 : at + 8 + length], default=0)
            return bits if 0 < bits <= 16 else None
        if kind in (b"IDAT", b"PLTE"):
            return None
        at += 12 + length
    return None
