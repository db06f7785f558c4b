"""What is held in memory of very many images, by the pieces that see each of them."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from fruit_pipeline.sample.manifest import Manifest, ManifestWriter
from fruit_pipeline.sample.sources import Source
from image_features.contract import MANIFEST
from image_features.storage import Storage

pytestmark = pytest.mark.slow

SHARD = 1_000


def write(storage: Storage, shards: int) -> None:
    writer = ManifestWriter()
    for shard in range(shards):
        names = [f"label {shard:04d}/{n:06d}.jpg" for n in range(SHARD)]
        digests = [f"{shard * SHARD + n:064x}" for n in range(SHARD)]
        columns = {"image": names, "label": [f"label {shard:04d}"] * SHARD, "sha256": digests}
        writer.add(shard, {**columns, "bytes": [850] * SHARD})
    writer.put(storage)


def read(storage: Storage, shards: int) -> None:
    manifest = Manifest(storage)
    assert sum(len(manifest.take(shard)) for shard in range(shards)) == shards * SHARD


def peak(work: Callable[[], None]) -> int:
    """Bytes at most, of Python and of Arrow."""
    pool = pa.default_memory_pool()
    tracemalloc.start()
    before = pool.bytes_allocated()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] + max(0, pool.bytes_allocated() - before)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("work", [write, read])
def test_four_times_the_images_in_a_manifest_hold_no_more_memory(
    tmp_path: Path, work: Callable[[Storage, int], None]
) -> None:
    peaks = []
    for shards in (100, 400):
        storage = Storage(tmp_path / str(shards), create=True)
        if work is read:
            write(storage, shards)
        peaks.append(peak(lambda at=storage, count=shards: work(at, count)))
        # The file itself is held, compressed.
        peaks[-1] -= (tmp_path / str(shards) / MANIFEST).stat().st_size
    assert peaks[1] < 1.2 * peaks[0], peaks


def test_a_listed_image_costs_its_name_and_little_more(tmp_path: Path) -> None:
    """A million are held while they are drawn; the label is one string for all of a folder."""
    for label in range(10):
        (tmp_path / f"label {label}").mkdir()
        for number in range(200):
            (tmp_path / f"label {label}" / f"{number:06d}.jpg").touch()
    source = Source(tmp_path)
    images = source.list().images
    assert len({id(image.label) for image in images}) == 10
    assert not hasattr(images[0], "__dict__")
