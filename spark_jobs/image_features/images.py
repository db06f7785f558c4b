"""From a file's bytes to the numbers a backbone takes, exactly as a Keras pipeline makes them.

RGB, Pillow's bicubic resize, the backbone's own ``preprocess_input``. Another resize changes the
features by far more than float rounding does, so there is one way here and no option.

EXIF orientation is not applied and only an animation's first frame is read, as in Keras'
``load_img``.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from image_features.contract import RejectReason

DEFAULT_MAX_PIXELS = 50_000_000
"""Width times height above which an image is rejected before it is decoded: 150 MB as RGB."""

# Modes that hold more than 8 bits a channel with no agreed range: there is no honest way to RGB.
_UNSUPPORTED_MODES = {"F", "I"}


CAFFE_MEAN = (103.939, 116.779, 123.68)
"""ImageNet's mean pixel, blue first, that "caffe" preprocessing subtracts."""


class RejectedImage(Exception):
    """This image cannot become features; ``reason`` says why, ``detail`` is the decoder's word."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        # Decoders quote the file's bytes; what is kept must be storable as UTF-8.
        self.detail = detail[:300].encode(errors="replace").decode()


def decode_rgb(
    content: bytes | memoryview, size: int, max_pixels: int = DEFAULT_MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Decode one image and resize it to ``size`` x ``size``.

    Returns uint8 of shape (size, size, 3). Raises RejectedImage for anything that does not decode
    whole; never anything else.
    """
    if not content:
        raise RejectedImage(RejectReason.EMPTY, "the file has no bytes")
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata; what counts here is whether the pixels decode.
            warnings.simplefilter("ignore")
            return _decode(content, size, max_pixels)
    except RejectedImage:
        raise
    except UnidentifiedImageError as error:
        raise RejectedImage(RejectReason.NOT_AN_IMAGE, "no decoder knows this format") from error
    except Image.DecompressionBombError as error:
        raise RejectedImage(RejectReason.TOO_MANY_PIXELS, str(error)) from error
    except Exception as error:
        # Decoders meet hostile bytes here and raise what they like (OSError, SyntaxError,
        # struct.error, MemoryError ...). One bad file must never end a task.
        reason = RejectReason.TRUNCATED if "truncated" in str(error).lower() else RejectReason.DECODE_ERROR
        raise RejectedImage(reason, f"{type(error).__name__}: {error}") from error


def _decode(content: bytes | memoryview, size: int, max_pixels: int) -> npt.NDArray[np.uint8]:
    Image.MAX_IMAGE_PIXELS = max_pixels  # for frames and tiles that Pillow meets while it decodes
    with Image.open(io.BytesIO(content)) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:
            raise RejectedImage(
                RejectReason.TOO_MANY_PIXELS, f"{image.width} x {image.height} is over {max_pixels} pixels"
            )
        image.load()
        return np.asarray(_to_rgb(image).resize((size, size), Image.Resampling.BICUBIC))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        high_bytes = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return Image.fromarray(high_bytes).convert("RGB")
    if image.mode in _UNSUPPORTED_MODES:
        raise RejectedImage(RejectReason.UNSUPPORTED_MODE, f"pixel mode {image.mode} has no fixed range")
    return image.convert("RGB")


class Preprocessor:
    """A backbone's ``keras.applications.*.preprocess_input`` as a table of 256 values a channel.

    Equal to Keras bit for bit: the table is made with the same float32 operations that
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
