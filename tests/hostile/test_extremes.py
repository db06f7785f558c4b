"""Odd sizes, modes and metadata: each becomes the pixels that Pillow makes of it, on a white ground."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from bombs import chunk, encoded, png, tiff
from PIL import Image, ImageOps

from image_features.contract import RejectReason
from image_features.images import FORMATS, RejectedImage, decode_rgb

SIZE = 96


def photo(mode: str = "RGB", size: tuple[int, int] = (60, 40)) -> Image.Image:
    pixels = np.random.default_rng(7).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def expected(image: Image.Image) -> np.ndarray:
    """Pillow's own conversion and resize; what is transparent is composited on white."""
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        image = white
    return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def reopened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def reason_of(content: bytes) -> RejectReason:
    with pytest.raises(RejectedImage) as caught:
        decode_rgb(content, SIZE)
    return caught.value.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM"])
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_one_pixel_rows_and_columns_decode(format: str, size: tuple[int, int]) -> None:
    content = encoded(photo(size=size), format)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("size", [(20_000, 2), (2, 20_000)])
def test_ribbons_decode(format: str, size: tuple[int, int]) -> None:
    content = encoded(photo(size=size), format)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        *(("CMYK", format) for format in ("JPEG", "TIFF")),
        *((mode, "PNG") for mode in ("1", "L", "LA", "P", "RGBA")),
        *((mode, "TIFF") for mode in ("1", "L", "LA", "P", "PA", "RGBA", "YCbCr", "LAB")),
        *((mode, "JPEG2000") for mode in ("L", "LA", "RGBA")),
        *((mode, "WEBP") for mode in ("RGBA", "L")),
    ],
)
def test_a_mode_becomes_rgb_as_pillow_converts_it(mode: str, format: str) -> None:
    image = photo("LAB" if mode == "LAB" else "L" if mode == "PA" else mode)
    content = encoded(image.convert("PA") if mode == "PA" else image, format)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


def test_the_inverted_cmyk_of_adobe_is_read_as_it_was_meant() -> None:
    content = encoded(photo("CMYK"), "JPEG")
    assert b"Adobe" in content
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))
    near = decode_rgb(content, SIZE).astype(int) - expected(photo("CMYK"))
    assert np.abs(near).mean() < 40  # inverted it would be another picture altogether


def test_ycck_decodes() -> None:
    content = bytearray(encoded(photo("CMYK"), "JPEG"))
    content[content.index(b"Adobe") + 11] = 2  # the transform that Adobe's marker names: YCCK
    assert np.array_equal(decode_rgb(bytes(content), SIZE), expected(reopened(bytes(content))))


@pytest.mark.parametrize("transparency", [0, b"\x00\x80\xff"])
def test_a_palette_with_transparency_is_composited_on_white(transparency: int | bytes) -> None:
    image = photo("P")
    content = encoded(image, "PNG", transparency=transparency)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


def test_a_picture_that_is_transparent_everywhere_is_white() -> None:
    image = photo("RGBA")
    image.putalpha(0)
    assert decode_rgb(encoded(image, "PNG"), SIZE).min() == 255


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_of_either_byte_order_keeps_its_high_bytes(order: str) -> None:
    values = np.random.default_rng(3).integers(0, 2**16, (SIZE, SIZE)).astype(f"{order}u2")
    head = b"II*\0" if order == "<" else b"MM\0*"
    rows = [(256, 4, SIZE), (257, 4, SIZE), (258, 3, 16), (259, 3, 1), (262, 3, 1)]
    rows += [(273, 4, 8 + 2 + 12 * 9 + 4), (277, 3, 1), (278, 4, SIZE), (279, 4, values.nbytes)]

    def number(value: int, width: int) -> bytes:
        return value.to_bytes(width, "little" if order == "<" else "big")

    body = b"".join(
        number(tag, 2) + number(kind, 2) + number(1, 4) + number(value, 2 if kind == 3 else 4).ljust(4, b"\0")
        for tag, kind, value in rows
    )
    content = head + number(8, 4) + number(len(rows), 2) + body + bytes(4) + values.tobytes()
    assert reopened(content).mode == ("I;16" if order == "<" else "I;16B")
    assert np.array_equal(
        decode_rgb(content, SIZE), np.repeat((values >> 8).astype(np.uint8)[..., None], 3, 2)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_orientation_is_applied(orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    turned = encoded(photo(), format, exif=exif, **options)
    assert reopened(turned).getexif()[0x0112] == orientation
    assert np.array_equal(decode_rgb(turned, SIZE), decode_rgb(encoded(photo(), format, **options), SIZE))
    if orientation > 1:
        applied = expected(ImageOps.exif_transpose(reopened(turned)))
        assert not np.array_equal(decode_rgb(turned, SIZE), applied)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_of_a_tiff_pillow_itself_applies_the_orientation_and_so_does_load_img(orientation: int) -> None:
    turned = encoded(photo(), "TIFF", tiffinfo={0x0112: orientation})
    upright = photo()
    upright.getexif()[0x0112] = orientation
    assert np.array_equal(decode_rgb(turned, SIZE), expected(reopened(turned)))
    assert np.array_equal(decode_rgb(turned, SIZE), expected(ImageOps.exif_transpose(upright)))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_many_frames_the_first_counts(format: str) -> None:
    frames = [Image.new("RGB", (30, 30), colour) for colour in ("red", "lime", "blue")]
    options = {"quality": 100} if format == "AVIF" else {}
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert getattr(reopened(content), "n_frames", 1) == 3
    assert np.abs(decode_rgb(content, SIZE).astype(int) - [255, 0, 0]).max() < 10


def test_a_frame_that_is_broken_behind_the_first_changes_nothing() -> None:
    frames = [photo(size=(30, 30)).convert("P"), photo(size=(30, 30)).rotate(90).convert("P")]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_rgb(whole[:-200], SIZE), decode_rgb(whole, SIZE))


@pytest.mark.parametrize(
    "format", ["EPS", "PDF", "ICO", "ICNS", "TGA", "PCX", "SGI", "DDS", "MSP", "IM", "XBM"]
)
def test_formats_that_nobody_keeps_photos_in_are_no_images(format: str) -> None:
    mode = "1" if format in ("MSP", "XBM") else "RGBA" if format in ("ICNS", "DDS") else "RGB"
    assert reason_of(encoded(photo(mode, (64, 64)), format)) is RejectReason.NOT_AN_IMAGE


def test_postscript_starts_no_program() -> None:
    """Pillow starts Ghostscript for a file that begins as EPS does."""
    content = encoded(photo(), "EPS")
    code = (
        "import subprocess, sys\n"
        "from image_features.images import RejectedImage, decode_rgb\n"
        "def told(*args, **options): print('started', args)\n"
        "subprocess.check_call = subprocess.check_output = subprocess.Popen = subprocess.run = told\n"
        "try: decode_rgb(sys.stdin.buffer.read(), 32)\n"
        "except RejectedImage as reject: print(reject.reason.value)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True)
    assert done.stdout.decode().split(os.linesep) == ["not-an-image", ""]


def test_every_suffix_of_a_source_is_of_a_format_that_is_tried() -> None:
    from fruit_pipeline.sample.left_out import image_suffixes

    Image.init()
    formats = {Image.EXTENSION[suffix] for suffix in image_suffixes()}
    assert formats == {*FORMATS, "MPO", "DIB"}  # which the decoders of JPEG and BMP read
    assert {".mpo", ".pbm", ".dib", ".apng", ".j2k", ".jfif"} <= {*image_suffixes()}


def test_a_bitmap_under_the_suffix_of_a_dib_is_read() -> None:
    content = encoded(photo(), "BMP")
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


def test_a_multi_picture_jpeg_is_its_first_picture() -> None:
    pictures = [photo(), photo().rotate(180)]
    content = encoded(pictures[0], "MPO", save_all=True, append_images=pictures[1:])
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


def test_a_film_behind_a_jpeg_changes_nothing() -> None:
    """Phones append one to a photo; markers of scans in it are not the photo's."""
    content = encoded(photo(), "JPEG")
    film = b"ftypmp42" + b"\xff\xda\x00\x08" * 10_000
    assert np.array_equal(decode_rgb(content + film, SIZE), decode_rgb(content, SIZE))


@pytest.mark.parametrize("optimised", [True, False])
def test_progressive_jpegs_decode(optimised: bool) -> None:
    content = encoded(photo(size=(500, 400)), "JPEG", progressive=True, optimize=optimised)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


@pytest.mark.parametrize(
    "options", [{}, {"tile_size": (64, 64)}, {"codeblock_size": (32, 32)}, {"irreversible": True}]
)
def test_jpeg_2000_as_encoders_write_it_decodes(options: dict) -> None:
    content = encoded(photo(size=(700, 500)), "JPEG2000", **options)
    assert np.array_equal(decode_rgb(content, SIZE), expected(reopened(content)))


def test_a_large_profile_and_many_texts_are_no_reason_to_reject() -> None:
    texts = [chunk(b"tEXt", b"k%d\0" % n + b"x" * 1000) for n in range(1000)]
    assert decode_rgb(png(4, 4, *texts), SIZE).shape == (SIZE, SIZE, 3)
    assert decode_rgb(encoded(photo(), "JPEG", icc_profile=b"p" * 500_000), SIZE).shape == (SIZE, SIZE, 3)


def test_an_image_of_no_width_is_a_reject() -> None:
    assert reason_of(png(0, 4)) in RejectReason
    assert reason_of(tiff([(256, 4, 1, 0), (257, 4, 1, 0)])) in RejectReason
