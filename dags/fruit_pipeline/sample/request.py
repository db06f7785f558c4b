"""Which images a sample draws, and how it is cut into shards."""

from __future__ import annotations

import json
from dataclasses import dataclass

from image_features.contract import digest_of
from image_features.errors import JobError
from image_features.storage import normalise_uri

SHARD_IMAGES = 1000

SHARD_BYTES = 64 * 1024 * 1024
"""A shard ends at either limit: a worker holds one shard in memory."""

SHARDS_PER_CORE = 4
"""With fewer, the last tasks leave cores idle; with more, each task's start counts."""


@dataclass(frozen=True)
class SampleRequest:
    """What is drawn: exactly one of per_label, total, or neither for all images."""

    source: str
    per_label: int | None = None
    total: int | None = None
    labels: tuple[str, ...] = ()  # empty: all
    seed: int = 0
    cores: int = 2  # of the cluster, for the number of shards
    pack: bool = True  # False: list the images, and leave them where they lie

    def __post_init__(self) -> None:
        if self.per_label is not None and self.total is not None:
            raise JobError("give a number of images per label or in total, not both")
        for name, value in (("images per label", self.per_label), ("images in total", self.total)):
            if value is not None and value < 1:
                raise JobError(f"{name} must be at least 1, not {value}")
        if not self.pack and not normalise_uri(self.source).startswith("s3://"):
            raise JobError(
                f"{self.source} is no s3:// prefix: the workers could not read it; pack its images instead"
            )

    @property
    def digest(self) -> str:
        """Of what is drawn; how it is cut into shards may differ."""
        drawn = [normalise_uri(self.source), self.per_label, self.total, sorted(self.labels), self.seed]
        return digest_of(json.dumps([*drawn, self.pack]))


def images_per_shard(images: int, cores: int) -> int:
    """Images of a full shard: SHARD_IMAGES, or fewer where each core would get too few shards."""
    return max(1, min(SHARD_IMAGES, images // (cores * SHARDS_PER_CORE)))
