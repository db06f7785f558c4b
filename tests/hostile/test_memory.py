"""Memory that is short is no verdict on an image; memory that a file asks for beyond its due is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from bombs import encoded
from PIL import Image, ImageFile

from image_features import shards
from image_features.contract import FEATURES_SCHEMA, RejectReason
from image_features.errors import Failed
from image_features.images import RejectedImage, decode_rgb
from image_features.spark import memory_failures_explained
from image_features.storage import Storage

SIZE = 32
PNG = encoded(Image.new("RGB", (40, 30), "red"), "PNG")


class Refusing:
    """A decoder's ``load`` that gets no memory the first times."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error, self._real = times, error, ImageFile.ImageFile.load

    def __get__(self, image: Image.Image, _: object) -> object:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self._real.__get__(image)


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_memory_that_was_short_for_a_moment_costs_no_image(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decode_rgb(PNG, SIZE)
    monkeypatch.setattr(ImageFile.ImageFile, "load", Refusing(1, error))
    assert np.array_equal(decode_rgb(PNG, SIZE), expected)


def test_a_file_that_asks_for_too_much_each_time_while_memory_is_there_is_a_reject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", Refusing(2, MemoryError("4 GB")))
    with pytest.raises(RejectedImage, match="asks for too much memory") as caught:
        decode_rgb(PNG, SIZE)
    assert caught.value.reason is RejectReason.DECODE_ERROR


STARVED = """
import resource, sys
from pathlib import Path
from image_features.errors import ShortOfMemory
from image_features.images import RejectedImage, decode_rgb
content = Path(sys.argv[1]).read_bytes()
used = next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    print(decode_rgb(content, 32, 10**9).shape)
except (RejectedImage, ShortOfMemory) as error:
    print(type(error).__name__, getattr(error, "reason", ""))
"""


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF"])
def test_a_fine_image_is_no_reject_in_a_process_without_memory(format: str, tmp_path: Path) -> None:
    """Each decoder has its own word for it; some say only that the data is broken."""
    file = tmp_path / "image"
    file.write_bytes(encoded(Image.new("RGB", (3000, 2500), "red"), format))

    def outcome(megabytes: int) -> str:
        command = [sys.executable, "-c", STARVED, str(file), str(megabytes << 20)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    found = {outcome(megabytes) for megabytes in (12, 20, 1500)}
    assert "(32, 32, 3)" in found
    assert "ShortOfMemory" in found
    assert len(found) == 2


def test_arrows_want_of_memory_is_not_taken_for_a_damaged_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {name: ["x"] for name in ("image", "label", "sha256")} | {"features": [[1.0]]}
    table = pa.table(columns, schema=FEATURES_SCHEMA)
    (tmp_path / "shard-00000.parquet").write_bytes(shards.parquet_bytes(table))

    def starving(*_: object, **options: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 1 failed")

    monkeypatch.setattr(shards.pq, "ParquetFile", starving)
    with pytest.raises(MemoryError):
        shards.read_shard(Storage(tmp_path), "shard-00000.parquet", FEATURES_SCHEMA)


@pytest.mark.parametrize(
    ("spark", "told"),
    [
        (
            "Task 1 in stage 0.0 failed\nimage_features.errors.ShortOfMemory: shard 7, image 'a': no 9 MB",
            "out of memory at shard 7, image 'a': no 9 MB; lower max_pixels",
        ),
        (
            "Task 1 in stage 0.0 failed 4 times\npyarrow.lib.ArrowMemoryError: malloc",
            "out of memory at shard 7;",
        ),
        (
            "Task 0 in stage 2.0 failed 4 times: Python worker exited unexpectedly (crashed)",
            "a worker was lost at shards 0 to 6 (Python worker exited unexpectedly), out of memory",
        ),
        (
            "ExecutorLostFailure: Container killed by YARN for exceeding physical memory limits. 5 GB used",
            "a worker was lost (killed by YARN for exceeding physical memory limits), out of memory",
        ),
    ],
)
def test_sparks_words_become_one_line(spark: str, told: str) -> None:
    with pytest.raises(Failed) as caught, memory_failures_explained(["shards 0 to 6", "shard 7"]):
        raise RuntimeError(spark)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_another_failure_of_spark_passes_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="division by zero"), memory_failures_explained(["shard 0"]):
        raise RuntimeError("Task 0 in stage 0.0 failed 4 times: division by zero")
