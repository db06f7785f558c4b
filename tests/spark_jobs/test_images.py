"""Decoding and preprocessing: equal to Keras bit for bit, and no input may end a task."""

from __future__ import annotations

import contextlib
import io
import random
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_features.contract import RejectReason
from image_features.images import Preprocessor, RejectedImage, decode_rgb

SIZE = 224


def photo(mode: str = "RGB", size: tuple[int, int] = (100, 80)) -> Image.Image:
    """An image whose every pixel differs from its neighbours: smooth colours and some noise."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    noise = np.random.default_rng(5).integers(-30, 30, (height, width, 3))
    pixels = np.clip(np.stack([x, y, 255 - x], axis=2) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def by_keras_rules(content: bytes, mode: str) -> np.ndarray:
    """The Keras pipeline: load_img(interpolation="bicubic"), then the arithmetic of preprocess_input."""
    with Image.open(io.BytesIO(content)) as image:
        x = np.array(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32)
    if mode == "tf":
        x /= 127.5
        x -= 1.0
        return x
    x = x[..., ::-1]
    for channel, mean in enumerate((103.939, 116.779, 123.68)):
        x[..., channel] -= mean
    return x


def preprocessed(rgb: np.ndarray, mode: str) -> np.ndarray:
    out = np.full(rgb.shape, np.nan, np.float32)
    Preprocessor(mode).fill(rgb, out)
    return out


def reason_of(content: bytes, **options: Any) -> RejectReason:
    with pytest.raises(RejectedImage) as caught:
        decode_rgb(content, SIZE, **options)
    return caught.value.reason


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), np.ascontiguousarray(expected).view(np.uint32))


@pytest.mark.parametrize("mode", ["tf", "caffe"])
@pytest.mark.parametrize("pixel_mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(100, 100), (640, 33), (1, 1), (224, 224)])
def test_pixels_equal_the_keras_pipeline_bit_for_bit(mode: str, pixel_mode: str, size: tuple) -> None:
    content = encoded(photo(pixel_mode, size), "JPEG")
    assert_same_bits(preprocessed(decode_rgb(content, SIZE), mode), by_keras_rules(content, mode))


@pytest.mark.parametrize("mode", ["tf", "caffe"])
def test_drawn_fruit_equals_the_keras_pipeline_bit_for_bit(mode: str, drawn: list[bytes]) -> None:
    for content in drawn[::4]:
        assert_same_bits(preprocessed(decode_rgb(content, SIZE), mode), by_keras_rules(content, mode))


@pytest.mark.parametrize(("mode", "application"), [("tf", "mobilenet_v2"), ("caffe", "resnet50")])
def test_preprocessing_is_keras_own_for_every_pixel_value(mode: str, application: str) -> None:
    import keras

    values = np.arange(256, dtype=np.uint8)
    rgb = np.stack([values, values[::-1], np.roll(values, 77)], axis=1).reshape(16, 16, 3)
    expected = getattr(keras.applications, application).preprocess_input(rgb.astype(np.float32))
    assert_same_bits(preprocessed(rgb, mode), np.asarray(expected))


def test_an_unknown_preprocessing_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'torch'"):
        Preprocessor("torch")


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_pixel_modes_of_8_bits_and_fewer_become_rgb_as_pillow_converts_them(mode: str) -> None:
    content = encoded(photo(mode))
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    found = decode_rgb(content, SIZE)
    assert (found.shape, found.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_bytes(format: str) -> None:
    high = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE), dtype=np.uint16)
    low = np.random.default_rng(2).integers(0, 256, (SIZE, SIZE), dtype=np.uint16)
    content = encoded(Image.fromarray(high << 8 | low), format)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "I;16"
    assert np.array_equal(decode_rgb(content, SIZE), np.repeat(high[..., None], 3, axis=2))


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_only_the_first_frame_of_an_animation_counts(format: str) -> None:
    frames = [Image.new("RGB", (50, 50), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    red, green, blue = decode_rgb(content, SIZE)[100, 100]
    assert red > 250
    assert green < 5
    assert blue < 5


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = encoded(photo(), "JPEG", exif=exif), encoded(photo(), "JPEG")
    with Image.open(io.BytesIO(turned)) as image:
        assert image.getexif()[0x0112] == 6
    assert np.array_equal(decode_rgb(turned, SIZE), decode_rgb(plain, SIZE))


def test_zero_bytes_are_empty() -> None:
    assert reason_of(b"") is RejectReason.EMPTY


@pytest.mark.parametrize("content", [b"\0", b"plain text", b"<html>404</html>", bytes(5000)])
def test_other_files_are_no_images(content: bytes) -> None:
    assert reason_of(content) is RejectReason.NOT_AN_IMAGE


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_cut_jpeg_is_truncated(percent: int) -> None:
    content = encoded(photo(), "JPEG")
    assert reason_of(content[: len(content) * percent // 100]) is RejectReason.TRUNCATED


def test_a_jpeg_that_ends_in_its_last_scan_line_is_truncated_not_filled_with_grey() -> None:
    content = encoded(photo(), "JPEG")
    assert reason_of(content[:-20]) is RejectReason.TRUNCATED


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_without_a_fixed_range_are_refused_and_the_mode_named(mode: str) -> None:
    with pytest.raises(RejectedImage, match=f"mode {mode} ") as caught:
        decode_rgb(encoded(photo("L").convert(mode), "TIFF"), SIZE)
    assert caught.value.reason is RejectReason.UNSUPPORTED_MODE


def test_broken_pixel_data_is_a_decode_error_in_the_decoders_words() -> None:
    content = bytearray(encoded(photo()))
    at = content.index(b"IDAT") + 4
    content[at : at + 64] = b"\xff" * 64
    with pytest.raises(RejectedImage) as caught:
        decode_rgb(bytes(content), SIZE)
    assert caught.value.reason is RejectReason.DECODE_ERROR
    assert "Error: " in caught.value.detail


def test_a_file_that_its_decoder_refuses_at_the_header_is_a_decode_error_in_the_decoders_words() -> None:
    """Not "no decoder knows this format": Pillow's open says so of every file that it cannot open."""
    png = encoded(photo())
    text = b"\0\0\0\3tEXta\0b" + (zlib.crc32(b"tEXta\0b") ^ 1).to_bytes(4)
    with pytest.raises(RejectedImage, match=r"broken PNG file \(bad header checksum in b'tEXt'\)") as caught:
        decode_rgb(png[:33] + text + png[33:], SIZE)
    assert caught.value.reason is RejectReason.DECODE_ERROR


@pytest.mark.parametrize(("format", "before"), [("JPEG", b"\n"), ("PNG", b"\r\n "), ("GIF", b"\t")])
def test_white_space_before_an_image_is_named(format: str, before: bytes) -> None:
    content = encoded(photo("P" if format == "GIF" else "RGB"), format)
    with pytest.raises(
        RejectedImage, match=f"{len(before)} bytes of white space .* a {format} image"
    ) as caught:
        decode_rgb(before + content, SIZE)
    assert caught.value.reason is RejectReason.DECODE_ERROR


@pytest.mark.parametrize("size", [(8160, 6144), (8192, 6144), (6144, 8192)])
def test_the_photos_of_phones_with_50_megapixels_are_within_the_default_limit(size: tuple[int, int]) -> None:
    assert decode_rgb(encoded(Image.new("1", size)), 32).shape == (32, 32, 3)


@pytest.mark.parametrize("size", [(51_001, 1000), (102_001, 1000)])
def test_a_reject_over_the_limit_names_pixels_and_limit(size: tuple[int, int]) -> None:
    """Pillow itself refuses more than the limit, in words about attacks."""
    with pytest.raises(RejectedImage, match=r"over the 51000000( pixels)? of max_pixels") as caught:
        decode_rgb(encoded(Image.new("1", size)), SIZE)
    assert caught.value.reason is RejectReason.TOO_MANY_PIXELS
    assert "bomb" not in caught.value.detail


def test_the_pixel_limit_itself_is_allowed_and_one_pixel_more_is_not() -> None:
    content = encoded(photo(size=(50, 40)))
    assert decode_rgb(content, SIZE, max_pixels=2000).shape == (SIZE, SIZE, 3)
    assert reason_of(content, max_pixels=1999) is RejectReason.TOO_MANY_PIXELS
    assert reason_of(content, max_pixels=999) is RejectReason.TOO_MANY_PIXELS  # Pillow's own limit: twice


def test_too_many_pixels_are_rejected_before_anything_is_decoded() -> None:
    content = encoded(photo(), "JPEG")
    header_only = content[: content.index(b"\xff\xda")]
    assert reason_of(header_only) is RejectReason.DECODE_ERROR
    assert reason_of(header_only, max_pixels=7999) is RejectReason.TOO_MANY_PIXELS


def test_a_limit_of_one_image_does_not_hold_for_the_next() -> None:
    content = encoded(photo())
    assert reason_of(content, max_pixels=10) is RejectReason.TOO_MANY_PIXELS
    assert decode_rgb(content, SIZE).shape == (SIZE, SIZE, 3)


def test_the_detail_of_a_reject_is_short_and_storable() -> None:
    reject = RejectedImage(RejectReason.DECODE_ERROR, "\udcff" + "x" * 1000)
    assert len(reject.detail.encode()) <= 300


@pytest.mark.parametrize("folder", ["pillow", "derived"])
def test_every_awkward_file_decodes_or_is_rejected(folder: str, shared_data: Path) -> None:
    files = sorted((shared_data / "hard_images" / folder).iterdir())
    assert files
    for path in files:
        with contextlib.suppress(RejectedImage):
            rgb = decode_rgb(path.read_bytes(), SIZE)
            assert (rgb.shape, rgb.dtype) == ((SIZE, SIZE, 3), np.uint8), path.name


AWKWARD = {
    "derived/zero_byte.jpg": "empty",
    "derived/text_named.jpg": "not-an-image",
    "derived/html_named.jpg": "not-an-image",
    "derived/fruit_truncated_10.jpg": "truncated",
    "derived/fruit_truncated_50.jpg": "truncated",
    "derived/fruit_truncated_90.jpg": "truncated",
    "derived/huge_15000x15000.jpg": "too-many-pixels",
    "derived/huge_10000x10000.jpg": "too-many-pixels",
    "pillow/hopper.pfm": "unsupported-mode",
}


def test_of_the_awkward_files_exactly_the_hopeless_ones_are_rejected(shared_data: Path) -> None:
    root = shared_data / "hard_images"
    found = {}
    for path in sorted(root.glob("*/*")):
        try:
            decode_rgb(path.read_bytes(), SIZE)
        except RejectedImage as reject:
            found[str(path.relative_to(root))] = reject.reason.value
    assert found == AWKWARD


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF"])
def test_mutated_files_raise_nothing_but_rejected_image_and_no_warning(format: str) -> None:
    original = encoded(photo("P" if format == "GIF" else "RGB", (40, 30)), format)
    chance = random.Random(format)
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(50):
            content = bytearray(original)
            for _ in range(chance.choice([1, 4, 20])):
                content[chance.randrange(len(content))] = chance.randrange(256)
            if chance.random() < 0.3:
                content = content[: chance.randrange(1, len(content))]
            if chance.random() < 0.2:
                at = chance.randrange(len(content))
                content[at:at] = chance.randbytes(chance.randrange(1, 100))
            try:
                outcomes.add(decode_rgb(bytes(content), 32, max_pixels=1_000_000).shape)
            except RejectedImage as reject:
                outcomes.add(reject.reason)
    assert len(outcomes) > 1, "the mutations reach one outcome only"
