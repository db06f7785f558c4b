"""Small runs, made in this process and below a test's folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction, reduction
from image_features.contract import FeaturesMarker
from image_features.storage import Storage
from support.spark import LocalSpark

BROKEN = {
    "Apple green/cut.jpg": "truncated",
    "Zucchini/empty.jpg": "empty",
    "Zucchini/letter.jpg": "not-an-image",
    "Zucchini/page.jpg": "not-an-image",
}
"""Files of the packed sample that are no images, with their reject reasons."""


@dataclass(frozen=True)
class Run:
    """The folders of one run; step 1 runs by ``extract``."""

    root: Path
    model: Path
    spark: Any

    @property
    def sample(self) -> Path:
        return self.root / "sample"

    @property
    def features(self) -> Path:
        return self.root / "features"

    @property
    def rejects(self) -> Path:
        return self.root / "rejects"

    def extract(self, **options: Any) -> FeaturesMarker:
        return extraction.run(self.spark, str(self.sample), str(self.model), str(self.features), **options)


def pack(source: Path, target: Path, cores: int = 1) -> None:
    """Pack all images of a folder into a sample; one core makes four shards or more."""
    write_sample(SampleRequest(str(source), cores=cores), Source(source), Storage(target, create=True))


def make_run(root: Path, source: Path, model: Path, components: int = 8, cores: int = 1) -> Path:
    """Sample, features and embeddings of the images of ``source``, below ``root``; returns ``root``."""
    pack(source, root / "sample", cores)
    spark, features = LocalSpark(), str(root / "features")
    extraction.run(spark, str(root / "sample"), str(model), features)
    reduction.run(spark, features, str(root / "pca"), components, model=str(model))
    return root


def finished_run(folder: Path, images: Path, model: Path, components: int = 8, cores: int = 1) -> Path:
    """A run of a copy of ``images`` and of two files that do not decode."""
    source = Path(shutil.copytree(images, folder / "source"))
    (source / "Apricot" / "empty.jpg").touch()
    (source / "Plum" / "text.jpg").write_text("no image")
    return make_run(folder / "run", source, model, components, cores)
