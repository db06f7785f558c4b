"""Fixtures of the job code's tests: a stand-in for Spark, drawn images, a packed sample, a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from support.runs import BROKEN, Run, pack
from support.spark import LocalSpark


@pytest.fixture(scope="session")
def spark() -> Any:
    """A stand-in for a SparkSession; the same code runs under Spark in the end-to-end tests."""
    return LocalSpark()


@pytest.fixture(scope="session")
def packed(drawn_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of 24 drawn images and 4 broken files in 4 shards of 7, the broken ones in 0 and 3."""
    folder = tmp_path_factory.mktemp("packed")
    for image in drawn_folder.glob("*/00[01].jpg"):
        copy = folder / "source" / image.relative_to(drawn_folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, copy)
    whole = (drawn_folder / "Apple green" / "000.jpg").read_bytes()
    (folder / "source" / "Zucchini").mkdir()
    for name, content in zip(
        BROKEN, (whole[: len(whole) // 2], b"", b"Dear shop,", b"<p>404</p>"), strict=True
    ):
        (folder / "source" / name).write_bytes(content)
    pack(folder / "source", folder / "sample")
    return folder / "sample"


@pytest.fixture
def run(packed: Path, random_backbone: Path, tmp_path: Path, spark: Any) -> Run:
    """A run whose sample is packed and whose features are still to be extracted."""
    shutil.copytree(packed, tmp_path / "sample")
    return Run(tmp_path, random_backbone, spark)


@pytest.fixture(scope="session")
def drawn(drawn_folder: Path) -> list[bytes]:
    """The drawn images' bytes, 48 different ones."""
    return [path.read_bytes() for path in sorted(drawn_folder.glob("*/*.jpg"))]
