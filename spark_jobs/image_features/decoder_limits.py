"""What a file's headers make a decoder allocate or repeat beside its pixels, looked at before decoding.

A limit on width times height does not bound a decoder: a JPEG 2000 file of 80 KB and 4 megapixels made
OpenJPEG take 6 GB, for its bookkeeping of 1 x 1 precincts. Each check here reads the claim from the file's
own bytes, costs next to nothing, and lets pass all that encoders write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

from PIL import Image

from image_features.contract import RejectReason

MAX_SCANS = 100
"""Of a JPEG. Progressive encoders write about ten; each one runs over all pixels, whatever its length."""

MAX_TILES = 10_000
"""Of a JPEG 2000 file: OpenJPEG keeps about 9 KB a tile from the header on."""

MAX_COMPONENTS = 4
"""Of a JPEG 2000 file; Pillow decodes no more, but OpenJPEG reserves for all before Pillow looks."""

_SMALLEST_LIMIT = 1 << 20  # pixels; a tile of 256 x 256 around a tiny image is honest

# A marker of JPEG that has a length, or the image's end: no stuffed zero, no fill byte, no restart.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)

Claim = tuple[RejectReason, str]


def outrageous(image: Image.Image, content: bytes, max_pixels: int) -> Claim | None:
    """The claim of an opened, undecoded image that no honest file makes; None when there is none.

    ``content``: the file's bytes; the image itself has been found to be within ``max_pixels``.
    """
    limit = max(max_pixels, _SMALLEST_LIMIT)
    if image.format in ("JPEG", "MPO"):
        return _of_jpeg(content)
    if image.format == "TIFF":
        return _of_tiff(image, content, limit)
    if image.format == "JPEG2000":
        return _of_jpeg2000(content, limit)
    return None


def _too_large(what: str, width: int, height: int, limit: int) -> Claim:
    return RejectReason.TOO_MANY_PIXELS, f"{what} of {width} x {height} is over {limit} pixels"


def _of_jpeg(content: bytes) -> Claim | None:
    """Scans up to the image's end; what follows it, such as a phone's film, is not the image's."""
    at, scans = 2, 0
    while (marker := _JPEG_MARKER.search(content, at)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        if scans > MAX_SCANS:
            return RejectReason.DECODE_ERROR, f"a JPEG of more than {MAX_SCANS} scans"
        at = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return None


def _of_tiff(image: Image.Image, content: bytes, limit: int) -> Claim | None:
    """libtiff allocates a tile whole, however small the image is."""
    tags = list(_first_directory(content))
    if len(tags) != len(set(tags)):
        # Pillow takes the last of two, libtiff the first: what is checked would not be what is used.
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


def _of_jpeg2000(content: bytes, limit: int) -> Claim | None:
    """The codestream's own size, and the structures that OpenJPEG makes of it (ISO 15444-1, annex A).

    The segments are looked for in the whole file, for OpenJPEG takes new parameters from each tile's header.
    Their lengths must agree with their content, as OpenJPEG wants it too: chance does not look like that.
    """
    for at in _found(content, b"\xff\x51"):
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
        # About 0.5 KB each; code-blocks of 64 x 64 make one for each 3,000 samples.
        allowed = size[0] * size[1] * components // 256 + 100_000
        for head, before in ((b"\xff\x52", 7), (b"\xff\x53", 4)):
            for place in _found(content, head):
                blocks = components * _structures(content, place, before, *size)
                if blocks > allowed:
                    words = f"a JPEG 2000 codestream of {blocks} code-blocks and precincts"
                    return RejectReason.DECODE_ERROR, words
    return None


def _structures(content: bytes, at: int, before: int, width: int, height: int) -> int:
    """Code-blocks and precincts of one component that a COD or COC segment asks for; 0 if it is none.

    ``before``: bytes between the segment's length and its number of decompositions.
    """
    style = content[at + 4 : at + 5] if before == 7 else content[at + 5 : at + 6]
    fixed = content[at + 2 + before : at + 7 + before]
    if len(fixed) < 5 or not style:
        return 0
    levels, block_width, block_height = fixed[:3]
    own = bool(style[0] & 1)
    length = int.from_bytes(content[at + 2 : at + 4])
    if levels > 32 or length != before + 5 + (levels + 1 if own else 0):
        return 0
    sizes = content[at + 7 + before : at + 8 + before + levels] if own else b"\xff" * (levels + 1)
    found = 0
    for resolution, precinct in enumerate(sizes):
        halvings = levels - resolution
        bands = 3 if resolution else 1  # each of half the resolution's width and height
        x, y = precinct & 15, precinct >> 4
        found += bands * _cells(width, height, halvings + x, halvings + y)
        band = int(resolution > 0)
        x, y = min(block_width + 2, max(x - band, 0)), min(block_height + 2, max(y - band, 0))
        found += bands * _cells(width, height, halvings + band + x, halvings + band + y)
    return found


def _cells(width: int, height: int, across: int, down: int) -> int:
    """Cells of 2**across x 2**down that cover so many pixels."""
    return -(-width >> across) * -(-height >> down)


def _found(content: bytes, what: bytes) -> Iterator[int]:
    at = content.find(what)
    while at >= 0:
        yield at
        at = content.find(what, at + 1)
