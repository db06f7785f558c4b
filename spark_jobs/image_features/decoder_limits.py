"""Limits on what a file's headers make a decoder allocate or repeat, checked before it decodes pixels.

A limit on width times height does not bound a decoder: a JPEG 2000 file of 80 KB and 4 megapixels made
OpenJPEG allocate 6 GB, for its bookkeeping of 1 x 1 precincts. Each check reads the file's own bytes, takes
next to no time, and accepts everything that encoders write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

from image_features.contract import RejectReason

MAX_SCANS = 100
"""Of a JPEG. Progressive encoders write about ten; a decoder runs over all pixels for each, however short."""

MAX_TILES = 10_000
"""Of a JPEG 2000 file: OpenJPEG allocates about 9 KB for each tile when it reads the header."""

MAX_COMPONENTS = 4
"""Of a JPEG 2000 file; Pillow decodes no more, but OpenJPEG allocates for all before Pillow checks."""

_SMALLEST_LIMIT = 1 << 20  # pixels; encoders put even a tiny image into a tile of 256 x 256

# A JPEG marker that has a length, or the end of the image; not a stuffed zero, a fill byte or a restart.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)

Violation = tuple[RejectReason, str]
"""The reason for the reject, and its detail."""


def violation(image: Image.Image, content: bytes, max_pixels: int) -> Violation | None:
    """The first limit that an opened, undecoded image exceeds; None when it exceeds none.

    ``content``: the file's bytes. The image's own size must be within ``max_pixels``.
    """
    limit = max(max_pixels, _SMALLEST_LIMIT)
    if image.format in ("JPEG", "MPO"):
        return _of_jpeg(content)
    if image.format == "TIFF":
        return _of_tiff(image, content, limit)
    if image.format == "JPEG2000":
        return _of_jpeg2000(content, limit)
    return None


def _too_large(what: str, width: int, height: int, limit: int) -> Violation:
    return RejectReason.TOO_MANY_PIXELS, f"{what} of {width} x {height} is over {limit} pixels"


def _of_jpeg(content: bytes) -> Violation | None:
    """Counts scans up to the end of the image; what follows, such as a phone's video, is not part of it."""
    at, scans = 2, 0
    while (marker := _JPEG_MARKER.search(content, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            return RejectReason.DECODE_ERROR, f"a JPEG of more than {MAX_SCANS} scans"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return None


def _of_tiff(image: Image.Image, content: bytes, limit: int) -> Violation | None:
    """libtiff allocates a whole tile, however small the image is."""
    tags = list(_first_directory(content))
    if len(tags) != len(set(tags)):
        # Pillow uses the last of two tags, libtiff the first: the value that is checked would not be used.
        return RejectReason.DECODE_ERROR, "a TIFF directory that has a tag twice"
    values = image.tag_v2  # type: ignore[attr-defined]
    width, length = values.get(322, 0), values.get(323, 0)
    if not (isinstance(width, int) and isinstance(length, int)):
        return RejectReason.DECODE_ERROR, f"a TIFF tile of {width!r} x {length!r}"[:200]
    return _too_large("a TIFF tile", width, length, limit) if width * length > limit else None


def _first_directory(content: bytes) -> Iterator[int]:
    """Tags of the first directory, in the file's order (TIFF 6.0, section 2; BigTIFF has wider fields)."""
    order = "<" if content[:2] == b"II" else ">"
    big = 43 in content[2:4]
    offset, count, entry = ("Q", "Q", 20) if big else ("L", "H", 12)
    (at,) = struct.unpack_from(order + offset, content, 8 if big else 4)
    (entries,) = struct.unpack_from(order + count, content, at)
    at += struct.calcsize(count)
    for n in range(min(entries, (len(content) - at) // entry)):
        yield struct.unpack_from(order + "H", content, at + n * entry)[0]


def _of_jpeg2000(content: bytes, limit: int) -> Violation | None:
    """Checks the codestream's size and the structures that OpenJPEG allocates for it (ISO 15444-1, annex A).

    The whole file is searched for segments, because OpenJPEG takes new parameters from each tile's header.
    Their lengths must agree with their content, as OpenJPEG demands: a chance match of bytes fails this.
    """
    for at in _positions(content, b"\xff\x51"):
        if len(content) < at + 40:
            break
        length, _, x1, y1, x0, y0, tile_x, tile_y, *_, components = struct.unpack_from(
            ">HH8LH", content, at + 2
        )
        if length != 38 + 3 * components:
            continue
        size = max(x1 - x0, 0), max(y1 - y0, 0)
        if size[0] * size[1] > limit:
            return _too_large("a JPEG 2000 codestream", *size, limit)
        if components > MAX_COMPONENTS:
            return RejectReason.DECODE_ERROR, f"a JPEG 2000 codestream of {components} components"
        tiles = -(-x1 // max(tile_x, 1)) * -(-y1 // max(tile_y, 1))
        if tiles > MAX_TILES:
            return RejectReason.DECODE_ERROR, f"a JPEG 2000 codestream of {tiles} tiles"
        # About 0.5 KB each. Code-blocks of 64 x 64 give one for each 3,000 samples.
        allowed = size[0] * size[1] * components // 256 + 100_000
        for head, before in ((b"\xff\x52", 7), (b"\xff\x53", 4)):
            for place in _positions(content, head):
                blocks = components * _structures(content, place, before, *size)
                if blocks > allowed:
                    detail = f"a JPEG 2000 codestream of {blocks} code-blocks and precincts"
                    return RejectReason.DECODE_ERROR, detail
    return None


def _structures(content: bytes, at: int, before: int, width: int, height: int) -> int:
    """Code-blocks and precincts of one component in a COD or COC segment; 0 if it is no such segment.

    ``before``: bytes between the segment's length and its number of decompositions, 7 for COD, 4 for COC.
    """
    style = content[at + 4 : at + 5] if before == 7 else content[at + 5 : at + 6]
    fixed = content[at + 2 + before : at + 7 + before]
    if len(fixed) < 5 or not style:
        return 0
    levels, block_width, block_height = fixed[:3]
    has_precincts = bool(style[0] & 1)
    length = int.from_bytes(content[at + 2 : at + 4])
    if levels > 32 or length != before + 5 + (levels + 1 if has_precincts else 0):
        return 0
    sizes = content[at + 7 + before : at + 8 + before + levels] if has_precincts else b"\xff" * (levels + 1)
    structures = 0
    for resolution, precinct in enumerate(sizes):
        halvings = levels - resolution
        bands = 3 if resolution else 1  # each of half the resolution's width and height
        x, y = precinct & 15, precinct >> 4
        structures += bands * _cells(width, height, halvings + x, halvings + y)
        band = int(resolution > 0)
        x, y = min(block_width + 2, max(x - band, 0)), min(block_height + 2, max(y - band, 0))
        structures += bands * _cells(width, height, halvings + band + x, halvings + band + y)
    return structures


def _cells(width: int, height: int, across: int, down: int) -> int:
    """Number of cells of 2**across x 2**down pixels that cover width x height."""
    return -(-width >> across) * -(-height >> down)


def _positions(content: bytes, pattern: bytes) -> Iterator[int]:
    at = content.find(pattern)
    while at >= 0:
        yield at
        at = content.find(pattern, at + 1)
