"""The decoder's border: whatever the bytes, an image of the asked size or a reject with a known reason."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from bombs import LIMIT, encoded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_features.contract import RejectReason
from image_features.images import RejectedImage, decode_rgb

SIZE = 16


def _seeds() -> dict[str, list[bytes]]:
    """Valid files of each format, of several modes."""
    pixels = np.random.default_rng(11).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    photo = Image.fromarray(pixels)
    more = {"save_all": True, "append_images": [photo.rotate(180)]}
    return {
        "JPEG": [
            encoded(photo, "JPEG"),
            encoded(photo, "JPEG", progressive=True),
            encoded(photo.convert("CMYK"), "JPEG"),
            encoded(photo, "MPO", **more),
        ],
        "PNG": [
            encoded(photo, "PNG"),
            encoded(photo.convert("P"), "PNG", transparency=3),
            encoded(photo, "PNG", **more),
            encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) << 8), "PNG"),
        ],
        "GIF": [encoded(photo.convert("P"), "GIF"), encoded(photo, "GIF", **more)],
        "WEBP": [
            encoded(photo, "WEBP"),
            encoded(photo.convert("RGBA"), "WEBP", lossless=True),
            encoded(photo, "WEBP", **more),
        ],
        "TIFF": [
            encoded(photo, "TIFF"),
            *(encoded(photo, "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg", "packbits")),
            encoded(photo, "TIFF", big_tiff=True),
            encoded(photo.convert("1"), "TIFF", compression="group4"),
        ],
        "BMP": [encoded(photo, "BMP"), encoded(photo.convert("P"), "BMP")],
        "AVIF": [encoded(photo, "AVIF", speed=10), encoded(photo.convert("RGBA"), "AVIF", speed=10)],
        "JPEG2000": [encoded(photo, "JPEG2000"), encoded(photo, "JPEG2000", no_jp2=True)],
        "PPM": [encoded(photo, "PPM"), encoded(photo.convert("1"), "PPM"), b"P3 2 2 255 " + b"1 2 3 " * 4],
    }


SEEDS = _seeds()
_SIZES = [0, 1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1]


def _flip(content: bytes, at: int, value: int) -> bytes:
    at %= len(content)
    return content[:at] + bytes([content[at] ^ (value % 255 + 1)]) + content[at + 1 :]


def _cut(content: bytes, at: int, value: int) -> bytes:
    del value
    return content[: at % len(content) + 1]


def _repeat(content: bytes, at: int, value: int) -> bytes:
    at %= len(content)
    return content[:at] + content[at : at + 40] * (value % 50) + content[at:]


def _drop(content: bytes, at: int, value: int) -> bytes:
    at %= len(content)
    return content[:at] + content[at + value % 40 + 1 :] or b"\0"


def _resize(content: bytes, at: int, value: int) -> bytes:
    """A whole number among the first bytes, where sizes stand, becomes a border of its type."""
    at %= min(len(content), 200)
    size, form = _SIZES[value % len(_SIZES)], ["<H", ">H", "<I", ">I"][value // len(_SIZES) % 4]
    data = struct.pack(form, size & (0xFFFF if form[1] == "H" else 0xFFFFFFFF))
    return content[:at] + data + content[at + len(data) :]


Change = tuple[Callable[[bytes, int, int], bytes], int, int]
CHANGES = st.lists(
    st.tuples(
        st.sampled_from([_flip, _cut, _repeat, _drop, _resize]), st.integers(0, 5000), st.integers(0, 5000)
    ),
    min_size=1,
    max_size=6,
)


def changed(content: bytes, changes: list[Change]) -> bytes:
    for change, at, value in changes:
        content = change(content, at, value)
    return content


def look(content: bytes) -> str:
    """The outcome in a word; any other exception than RejectedImage is the caller's to see."""
    rejected: RejectedImage | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            rgb = decode_rgb(content, SIZE, LIMIT)
        except RejectedImage as reject:
            rejected = reject
    if rejected:
        assert isinstance(rejected.reason, RejectReason)
        assert len(rejected.detail.encode()) <= 1200
        return rejected.reason.value
    assert (rgb.shape, rgb.dtype) == ((SIZE, SIZE, 3), np.uint8)
    return "image"


@pytest.mark.parametrize("format", SEEDS)
def test_the_seeds_decode(format: str) -> None:
    assert {look(content) for content in SEEDS[format]} == {"image"}


@pytest.mark.parametrize("format", SEEDS)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_changed_files_are_images_or_typed_rejects(format: str, data: st.DataObject) -> None:
    look(changed(data.draw(st.sampled_from(SEEDS[format])), data.draw(CHANGES)))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=st.sampled_from([content for seeds in SEEDS.values() for content in seeds]),
    second=st.sampled_from([content for seeds in SEEDS.values() for content in seeds]),
    share=st.floats(0, 1),
)
def test_the_head_of_one_file_on_the_tail_of_another(first: bytes, second: bytes, share: float) -> None:
    look(first[: int(len(first) * share)] + second[int(len(second) * share) :])


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", *(seeds[0][:12] for seeds in SEEDS.values())]))
def test_any_bytes_behind_any_signature(content: bytes, signature: bytes) -> None:
    look(signature + content)
