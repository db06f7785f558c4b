"""Small pictures of a run's images, as the backbone got them, in sprite sheets inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps

from image_features import pixels
from image_features.contract import SampleMarker
from image_features.errors import JobError, NotFound, ShortOfMemory
from image_features.images import DEFAULT_MAX_PIXELS, RejectedImage, decode_rgb
from image_features.sample_reader import SampleReader
from image_features.storage import Storage

READ_BYTES = 2_000_000_000
"""Most bytes of packed shards to read, which are read whole; images beyond that are left out."""

SHARPEST = Image.Resampling.LANCZOS

_PAD = (236, 236, 236)
_EDGE = 2  # pixels by which a sprite's edge is repeated, so that it never shows its neighbours when scaled
_COLUMNS = 20  # of a sheet: 400 images, a size that any browser decodes
_ATTEMPTS = ((1.0, 80), (1.0, 60), (0.75, 60), (0.75, 40), (0.5, 40), (0.5, 20))
"""Scale and WebP quality, until the sheets are small enough."""


@dataclass(frozen=True)
class SpritePosition:
    """Position of a sprite: the sheet, and CSS' background-position in percent."""

    sheet: int
    x: float
    y: float


@dataclass(frozen=True)
class Sheet:
    """Sprites of one size in rows, as a data URI, with CSS' background-size in percent."""

    uri: str
    width: float
    height: float


@dataclass(frozen=True)
class Sprites:
    """Sheets, and the position of each image's sprite by the image's name."""

    sheets: list[Sheet]
    positions: dict[str, SpritePosition]


class Images:
    """Reads images of the sample by name, as far as they still exist."""

    def __init__(
        self, sample_store: Storage | None, sample: SampleMarker | None, source: Storage | None = None
    ) -> None:
        self._sample = sample
        self._store = sample_store
        self._source = source
        self._left = READ_BYTES
        self.missing: list[str] = []  # why images could not be read

    def read(self, wanted: Mapping[int, set[str]]) -> Iterator[tuple[str, bytes | memoryview]]:
        """Yield name and file of the images ``wanted``, which are given by shard; each shard is read once.

        Images that no longer exist are noted in ``missing``. Raises StorageError when reading fails for now.
        """
        if self._sample is None or self._store is None:
            self.missing.append("the run's sample has been deleted")
            return
        shards = {shard.shard: shard for shard in self._sample.shards}
        for number, names in sorted(wanted.items()):
            if self._sample.packed and shards[number].bytes > self._left:
                self.missing.append(f"more than {READ_BYTES:,} bytes would have to be read")
                return
            self._left -= shards[number].bytes if self._sample.packed else 0
            try:
                # Opened here, because the source of images that are not packed may no longer exist.
                read = SampleReader(self._store, self._sample, self._source).read(shards[number], names)
            except NotFound as error:
                self.missing.append(str(error))
                return
            except JobError as error:
                if error.retryable:
                    raise
                self.missing.append(str(error))
                continue
            yield from zip(read.images, read.contents, strict=True)


def picture(
    content: bytes | memoryview,
    size: int,
    input_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Image.Image | None:
    """What the backbone got of an image, as a square of ``size`` pixels; None when it does not decode.

    ``input_size``: pixels of a side that the backbone takes, by default ``size``.
    """
    try:
        seen = Image.fromarray(decode_rgb(content, input_size or size, max_pixels))
    except (RejectedImage, ShortOfMemory):
        return None
    return seen if seen.width == size else seen.resize((size, size), SHARPEST)


def preview(content: bytes | memoryview, size: int) -> Image.Image | None:
    """As much as can be decoded of an image that the run rejected, fitted into a square of ``size`` pixels.

    None when nothing can. Images of more than DEFAULT_MAX_PIXELS are not decoded, except that a JPEG may be
    decoded at a smaller scale. Values without a fixed range are scaled from their own.
    """
    try:
        with warnings.catch_warnings(), _lenient(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore")
            image.draft("RGB", (2 * size, 2 * size))
            if image.width * image.height > DEFAULT_MAX_PIXELS:
                return None
            samples = pixels.Samples.of(image, bytes(content))
            image.load()
            if image.mode in ("F", "I"):
                rgb = _scaled(image)
            else:
                rgb, _ = pixels.to_rgb(image, bytes(content), samples)
            return ImageOps.pad(rgb, (size, size), SHARPEST, color=_PAD)
    except Exception:  # decoders raise anything on hostile bytes; the report then has no picture of it
        return None


@contextmanager
def _lenient() -> Iterator[None]:
    """Decode what is left of a cut file; Pillow's limits are global to the process, so restore them."""
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, True
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _scaled(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, np.float64))
    span = values.max() - values.min()
    grey = (values - values.min()) / (span or 1) * 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def sprites(pictures: Mapping[str, Image.Image], size: int, most_bytes: int) -> Sprites:
    """Put pictures of ``size`` pixels into sheets of at most about ``most_bytes`` in all.

    If the sheets are larger, the pictures are scaled down and their quality is reduced.
    """
    names = list(pictures)
    groups = [names[at : at + _COLUMNS**2] for at in range(0, len(names), _COLUMNS**2)]
    files: list[bytes] = []
    side = size
    for scale, quality in _ATTEMPTS:
        side = round(size * scale)
        files = [_sheet([pictures[name] for name in group], side, quality) for group in groups]
        if sum(map(len, files)) <= most_bytes:
            break
    sheets, positions = [], {}
    for number, (group, file) in enumerate(zip(groups, files, strict=True)):
        columns, rows = _grid(len(group))
        uri = f"data:image/webp;base64,{base64.b64encode(file).decode()}"
        cell = side + 2 * _EDGE
        sheets.append(Sheet(uri, *(round(100 * count * cell / side, 4) for count in (columns, rows))))
        for at, name in enumerate(group):
            row, column = divmod(at, columns)
            positions[name] = SpritePosition(
                number, _position(column, columns, side), _position(row, rows, side)
            )
    return Sprites(sheets, positions)


def _grid(count: int) -> tuple[int, int]:
    """Columns and rows that hold ``count`` sprites."""
    columns = min(count, _COLUMNS)
    return columns, -(-count // columns)


def _position(at: int, count: int, size: int) -> float:
    """Percent by which a sheet of ``count`` cells is moved, to show sprite ``at`` without its edge."""
    cell = size + 2 * _EDGE
    return round(100 * (at * cell + _EDGE) / (count * cell - size), 4)


def _sheet(pictures: list[Image.Image], size: int, quality: int) -> bytes:
    columns, rows = _grid(len(pictures))
    cell = size + 2 * _EDGE
    sheet = np.full((rows * cell, columns * cell, 3), _PAD, np.uint8)
    for at, one in enumerate(pictures):
        row, column = divmod(at, columns)
        small = one if one.width == size else one.resize((size, size), SHARPEST)
        around = np.pad(np.asarray(small), ((_EDGE, _EDGE), (_EDGE, _EDGE), (0, 0)), "edge")
        sheet[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = around
    sink = io.BytesIO()
    Image.fromarray(sheet).save(sink, "WEBP", quality=quality, method=4)
    return sink.getvalue()
