"""Decodes image files and computes the backbone's input, exactly as a Keras pipeline does.

The steps are RGB, Pillow's bicubic resize, and the backbone's own ``preprocess_input``. Another resize
changes the features by far more than float rounding does, so there is no option for it.

EXIF orientation is not applied and only the first frame of an animation is read, as in Keras'
``load_img``.

The files may be hostile: before a decoder allocates memory, this module restricts the formats, the
size of an image, and what its headers may say (docs/hostile-inputs.md).
"""

from __future__ import annotations

import contextlib
import io
import mmap
import re
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from image_features import decoder_limits, pixels
from image_features.contract import BackboneSpec, Conversion, RejectReason
from image_features.errors import ShortOfMemory

DEFAULT_MAX_PIXELS = 51_000_000
"""Width times height above which an image is rejected before it is decoded; phones make up to 50.3 MP."""

BYTES_PER_PIXEL = 28
"""The most memory that decoding takes, beside the file's own bytes: 1.4 GB at the default limit.

Measured with Pillow 13.0 as the rise of a process's largest resident size (VmHWM) while it decodes 50
megapixels: JPEG 4, progressive 7 and as CMYK 12, PNG 5 to 8, 16-bit grey 9, GIF 5, TIFF 4 to 8, AVIF 11,
WebP 17, JPEG 2000 19 and with alpha 25 bytes a pixel. Pixels of 12 bits in 16-bit colour take 23.
"""

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""The decoders that are tried, by Pillow's names; they match the suffixes of the images of a source.

Pillow has thirty more. Some start a program (EPS: Ghostscript), some are written in Python and slow,
and photos are not stored in them. PPM includes PGM, PBM and PFM; JPEG includes MPO.
"""

_PILLOWS_COUNT = re.compile(r"\((\d+) pixels\)")

_FIXED_BYTES = 64 * 2**20  # what decoders take for an image of any size

CAFFE_MEAN = (103.939, 116.779, 123.68)
"""ImageNet's mean pixel, blue first, which "caffe" preprocessing subtracts."""


class RejectedImage(Exception):
    """This image cannot get features; ``reason`` is the kind of fault, ``detail`` the decoder's message."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        # Decoders quote the file's bytes; the detail must be storable as UTF-8.
        self.detail = detail[:300].encode(errors="replace").decode()


@dataclass(frozen=True)
class Decoded:
    """The pixels of an image that the backbone gets."""

    rgb: npt.NDArray[np.uint8]  # (size, size, 3)
    conversions: frozenset[Conversion]  # what was done to the pixels before the resize


def decode_rgb(
    content: bytes | memoryview, size: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """The pixels of ``decode`` alone: uint8 (size, size, 3)."""
    return decode(content, size, max_pixels).rgb


def decode(content: bytes | memoryview, size: int, max_pixels: int = DEFAULT_MAX_PIXELS) -> Decoded:
    """Decode one image and resize it to ``size`` x ``size``, with what was done to its pixels.

    Raises RejectedImage for a file that does not decode completely, ShortOfMemory where the cause may be
    that this process gets no more memory, and no other exception.
    """
    if not content:
        raise RejectedImage(RejectReason.EMPTY, "the file has no bytes")
    file = _File(content, max_pixels)
    try:
        return file.decode(size)
    except RejectedImage as reject:
        if reject.reason is RejectReason.TOO_MANY_PIXELS or not file.starved():
            raise
    except MemoryError as error:
        if not file.starved():
            # There is memory now. Either the file asked for more than an image of its size needs, or memory
            # was short for a moment; a second attempt tells which.
            with contextlib.suppress(MemoryError):
                return file.decode(size)
            raise RejectedImage(RejectReason.DECODE_ERROR, f"asks for too much memory: {error}") from error
    raise ShortOfMemory(f"no {file.needs / 2**20:,.0f} MB of memory for an image of {file.pixels:,} pixels")


class _File:
    """An image file that is being decoded."""

    def __init__(self, content: bytes | memoryview, max_pixels: int) -> None:
        self._content, self._max_pixels = content, max_pixels
        self.pixels = 0  # as the header says, once it has been read and found to be within the limit

    @property
    def needs(self) -> int:
        """Bytes that decoding takes at most, unless the file is made to take more."""
        return self.pixels * BYTES_PER_PIXEL + len(self._content) + _FIXED_BYTES

    def starved(self) -> bool:
        """Whether the process cannot allocate ``needs``."""
        try:
            mmap.mmap(-1, self.needs, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except (OSError, MemoryError):
            return True
        return False

    def decode(self, size: int) -> Decoded:
        """The image, resized. Raises RejectedImage, or MemoryError as decoders do."""
        try:
            with warnings.catch_warnings():
                # Pillow warns of odd metadata; only the pixels matter here.
                warnings.simplefilter("ignore")
                return self._decode(size)
        except (RejectedImage, MemoryError):
            raise
        except UnidentifiedImageError as error:
            raise self._unidentified() from error
        except pixels.NoRange as error:
            raise RejectedImage(RejectReason.UNSUPPORTED_MODE, str(error)) from error
        except Image.DecompressionBombError as error:
            claimed = _PILLOWS_COUNT.search(str(error))
            detail = (
                f"{claimed[1] if claimed else 'its'} pixels are over the {self._max_pixels} of max_pixels"
            )
            raise RejectedImage(RejectReason.TOO_MANY_PIXELS, detail) from error
        except Exception as error:
            # On hostile bytes decoders raise anything (OSError, SyntaxError, struct.error ...), and one bad
            # file must never end a task.
            raise _reject_of(error) from error

    def _unidentified(self) -> RejectedImage:
        """Why no decoder opened this file: Pillow's ``open`` drops the message of the one that refused."""
        content = bytes(self._content)
        stripped = content.lstrip(b" \t\r\n")
        for format in FORMATS:
            factory, accepts = Image.OPEN.get(format, (None, None))
            if factory is None or accepts is None:  # a Pillow that was built without this decoder
                continue
            if accepts(content[:16]) is True:
                try:
                    factory(io.BytesIO(content), "")
                except Exception as error:
                    return _reject_of(error)
            elif accepts(stripped[:16]) is True:
                detail = f"{len(content) - len(stripped)} bytes of white space stand before a {format} image"
                return RejectedImage(RejectReason.DECODE_ERROR, detail)
        return RejectedImage(RejectReason.NOT_AN_IMAGE, "no decoder knows this format")

    def _decode(self, size: int) -> Decoded:
        # For frames, canvases and tiles, whose sizes only Pillow sees: it refuses more than twice this.
        Image.MAX_IMAGE_PIXELS = (self._max_pixels + 1) // 2
        content = bytes(self._content)  # BytesIO shares it, but would copy a view
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            count = image.width * image.height
            if count > self._max_pixels:
                detail = f"{image.width} x {image.height} is over the {self._max_pixels} pixels of max_pixels"
                raise RejectedImage(RejectReason.TOO_MANY_PIXELS, detail)
            self.pixels = count
            if violation := decoder_limits.violation(image, content, self._max_pixels):
                raise RejectedImage(*violation)
            samples = pixels.Samples.of(image, content)
            image.load()
            rgb, conversions = pixels.to_rgb(image, content, samples)
            return Decoded(np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC)), conversions)


def _reject_of(error: Exception) -> RejectedImage:
    """The reject that a decoder's exception stands for. Raises MemoryError for a codec that got no memory.

    Pillow has no class or code for these two cases: the text says which codec error it was.
    """
    message = str(error).lower()
    if "out of memory" in message:
        raise MemoryError(str(error)) from error
    reason = RejectReason.TRUNCATED if "truncated" in message else RejectReason.DECODE_ERROR
    return RejectedImage(reason, f"{type(error).__name__}: {error}")


class Preprocessor:
    """A backbone's ``keras.applications.*.preprocess_input``, as a table of 256 values for each channel.

    Equal to Keras bit for bit: the table is computed with the same float32 operations that
    ``imagenet_utils.preprocess_input`` applies to each pixel
    (https://github.com/keras-team/keras/blob/master/keras/src/applications/imagenet_utils.py).
    """

    def __init__(self, mode: str) -> None:
        """``mode``: "tf" (x / 127.5 - 1) or "caffe" (BGR, minus the ImageNet mean)."""
        values = np.arange(256, dtype=np.float32)
        if mode == "tf":
            values /= 127.5
            values -= 1.0
            self._tables = [values]
        elif mode == "caffe":
            self._tables = [values - np.float32(mean) for mean in CAFFE_MEAN]
        else:
            raise ValueError(f"unknown preprocessing {mode!r}; expected 'tf' or 'caffe'")

    def fill(self, rgb: npt.NDArray[np.uint8], out: npt.NDArray[np.float32]) -> None:
        """Write the preprocessed image into ``out``, both of shape (size, size, 3)."""
        if len(self._tables) == 1:
            # mode="clip" writes straight into out; a uint8 never needs clipping.
            np.take(self._tables[0], rgb, out=out, mode="clip")
            return
        for channel, table in enumerate(self._tables):
            out[:, :, channel] = table[rgb[:, :, 2 - channel]]


def preprocessing_of(spec: BackboneSpec, max_pixels: int) -> str:
    """The settings that decide an image's features, beside its bytes and the backbone."""
    return f"{spec.preprocessing} {spec.input_size} {max_pixels}"


def settings_of(preprocessing: str) -> tuple[int, int]:
    """The input size (pixels of a side) and the limit on pixels of a text that preprocessing_of has made."""
    _, input_size, max_pixels = preprocessing.split()
    return int(input_size), int(max_pixels)
