"""Small files that ask for much: of each kind one, made here from nothing."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from typing import Any

from PIL import Image

from image_features.decoder_limits import MAX_SCANS

LIMIT = 2_000_000
"""max_pixels that the bombs are met with."""

_SIDE = 5000  # of images that really are too large


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *between: bytes, data: bytes | None = None) -> bytes:
    """A grey PNG, with chunks between its header and its data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes((width + 1) * height)) if data is None else data
    body = header + b"".join(between) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(tags: Iterable[tuple[int, int, int, int]], data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of one directory, ``data`` after it; a tag is its number, type, count and value.

    A value of -1 stands for where the data begins.
    """
    tags = list(tags)
    at = 8 + 2 + 12 * len(tags) + 4
    rows = [(tag, kind, count, at if value == -1 else value) for tag, kind, count, value in tags]
    directory = b"".join(struct.pack("<HHII", *row) for row in rows)
    return b"II*\0" + struct.pack("<IH", 8, len(rows)) + directory + struct.pack("<I", following) + data


def _grey(width: int, height: int, data: bytes) -> list[tuple[int, int, int, int]]:
    deflated = 8
    return [
        *((256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, deflated), (262, 3, 1, 1)),
        *((273, 4, 1, -1), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, len(data))),
    ]


def _tiled(sides: list[int], data: bytes) -> bytes:
    """A TIFF of 10 x 10 pixels in one tile; with two sides, the tags of a tile's size stand there twice."""
    sizes = [row for side in sides for row in ((322, 4, 1, side), (323, 4, 1, side))]
    tags = [row for row in _grey(10, 10, data) if row[0] not in (273, 278, 279)]
    return tiff(sorted([*tags, *sizes, (324, 4, 1, -1), (325, 4, 1, len(data))], key=lambda t: t[0]), data)


def _pages(count: int) -> bytes:
    """A TIFF of many directories, all of the same 4 x 4 pixels."""
    pixels = zlib.compress(bytes(16))
    size, first = 2 + 12 * 9 + 4, 8 + len(pixels)
    out = [b"II*\0", struct.pack("<I", first), pixels]
    for page in range(count):
        rows = [row if row[3] != -1 else (*row[:3], 8) for row in _grey(4, 4, pixels)]
        following = first + (page + 1) * size if page < count - 1 else 0
        out += [struct.pack("<H", len(rows)), *(struct.pack("<HHII", *row) for row in rows)]
        out.append(struct.pack("<I", following))
    return b"".join(out)


def _gif(width: int, height: int, frame: tuple[int, int], frames: int = 1) -> bytes:
    """A GIF of a canvas and frames of one size, all of one pixel's data."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    one = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0"
    return head + one * frames + b";"


def _apng(frames: int) -> bytes:
    pixels = zlib.compress(b"\0\x80")
    out = [chunk(b"acTL", struct.pack(">II", frames, 0))]
    control = ">IIIIIHHBB"
    out.append(chunk(b"fcTL", struct.pack(control, 0, 1, 1, 0, 0, 1, 10, 0, 0)))
    out.append(chunk(b"IDAT", pixels))
    for frame in range(1, frames):
        number = 2 * frame - 1
        out.append(chunk(b"fcTL", struct.pack(control, number, 1, 1, 0, 0, 1, 10, 0, 0)))
        out.append(chunk(b"fdAT", struct.pack(">I", number + 1) + pixels))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(out) + chunk(b"IEND", b"")


def _webp(width: int, height: int) -> bytes:
    """A lossy WebP of 8 x 8 whose header says another canvas."""
    inner = encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<IB3x", 10, 0) + canvas + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _resized_jpeg(width: int, height: int, *, cut: bool) -> bytes:
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(content[: content.index(b"\xff\xda")] if cut else content)


def _many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is there many times."""
    content = encoded(Image.new("L", (64, 64), 77), "JPEG", progressive=True)
    at = content.rindex(b"\xff\xda")
    return content[:at] + content[at:-2] * count + content[-2:]


def _jpeg2000(content: bytes, header: bytes, at: int, new: bytes) -> bytes:
    """Bytes behind a box's or a segment's name replaced."""
    at += content.index(header) + len(header)
    return content[:at] + new + content[at + len(new) :]


def bombs() -> dict[str, bytes]:
    """File name to content."""
    zeros = zlib.compress(bytes(200 * 2**20), 9)
    large = Image.new("L", (_SIDE, _SIDE), 128)
    jp2 = encoded(large, "JPEG2000")
    small = struct.pack(">II", 100, 100)
    tiny_precincts = encoded(
        Image.new("RGB", (1400, 1400), (1, 2, 3)), "JPEG2000", precinct_size=(128, 128), num_resolutions=1
    )
    avif = encoded(Image.new("RGB", (64, 64)), "AVIF")
    texts = [chunk(b"zTXt", b"k%d\0\0" % n + zlib.compress(bytes(10**6))) for n in range(200)]
    return {
        "png 50001 x 50001.png": png(50_001, 50_001, data=zlib.compress(bytes(10**7))),
        "png icc profile.png": png(4, 4, chunk(b"iCCP", b"p\0\0" + zeros)),
        "png text.png": png(4, 4, chunk(b"zTXt", b"k\0\0" + zeros)),
        "png utf-8 text.png": png(4, 4, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)),
        "png 200 texts.png": png(4, 4, *texts),
        "png more data than pixels.png": png(4, 4, data=zeros),
        "apng 100000 frames.png": _apng(100_000),
        "gif canvas.gif": _gif(65_535, 65_535, (1, 1)),
        "gif frame beyond its canvas.gif": _gif(1, 1, (65_535, 65_535)),
        "gif 100000 frames.gif": _gif(1, 1, (1, 1), 100_000),
        "tiff tile.tif": _tiled([20_000], zeros),
        "tiff tile of 2 GB.tif": _tiled([46_000], zeros),
        "tiff tile said twice.tif": _tiled([20_000, 16], zeros),
        "tiff strip.tif": tiff(_grey(60_000, 60_000, zeros), zeros),
        "tiff rows a strip.tif": tiff(
            [row if row[0] != 278 else (278, 4, 1, 2**32 - 1) for row in _grey(100, 100, zeros)], zeros
        ),
        "tiff longer data than pixels.tif": tiff(_grey(100, 100, zeros), zeros),
        "tiff 10000 pages.tif": _pages(10_000),
        "tiff directory that is its own next.tif": tiff(_grey(4, 4, zlib.compress(bytes(16))), b"", 8),
        "webp canvas.webp": _webp(16_383, 16_383),
        "webp canvas of 2^24.webp": _webp(1 << 24, 1 << 24),
        "webp frame.webp": encoded(large.convert("RGB"), "WEBP", method=0),
        "jpeg without data.jpg": _resized_jpeg(65_500, 65_500, cut=True),
        "jpeg of little data.jpg": _resized_jpeg(65_500, 65_500, cut=False),
        "jpeg within the limit, without data.jpg": _resized_jpeg(1999, 1000, cut=True),
        "jpeg scans.jpg": _many_scans(MAX_SCANS + 1),
        "jp2 claim.jp2": _jpeg2000(jp2, b"ihdr", 0, struct.pack(">II", 2**31, 2**31)),
        "jp2 larger than its header says.jp2": _jpeg2000(jp2, b"ihdr", 0, small),
        "jp2 precincts.jp2": _jpeg2000(tiny_precincts, b"\xff\x52", 12, b"\0"),
        "jp2 tiles.jp2": _jpeg2000(
            encoded(large.crop((0, 0, 1400, 1400)), "JPEG2000"), b"\xff\x51", 20, struct.pack(">II", 1, 1)
        ),
        "avif claim.avif": _jpeg2000(avif, b"ispe", 4, struct.pack(">II", 16_000, 16_000)),
        "bmp.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
        "ppm.ppm": b"P6 99999 99999 255\n" + bytes(1000),
        "ppm in text.ppm": b"P3 999999999999999999999999 9 255\n" + b"1 " * 1000,
    }


DECODE = {
    # What lies in them is small and right; the rest is not looked at.
    "apng 100000 frames.png",
    "gif 100000 frames.gif",
    "png more data than pixels.png",
    "tiff rows a strip.tif",
    "tiff longer data than pixels.tif",
    "tiff 10000 pages.tif",
}
