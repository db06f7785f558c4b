"""The request for a sample: which images are drawn, and how many a shard contains."""

from __future__ import annotations

import json
from dataclasses import dataclass

from fruit_pipeline.sample.labels import FIRST, LABEL_FROM
from image_features.contract import digest_of
from image_features.errors import JobError
from image_features.storage import normalise_uri

SHARD_IMAGES = 1000

SHARD_BYTES = 64 * 1024 * 1024
"""A shard ends at either limit, because a worker keeps a whole shard in memory."""

SHARDS_PER_CORE = 4
"""With fewer, cores are idle during the last tasks; with more, the start of the tasks costs time."""


@dataclass(frozen=True)
class SampleRequest:
    """The images to draw: ``per_label``, ``total``, or neither of them for all images."""

    source: str
    per_label: int | None = None
    total: int | None = None
    labels: tuple[str, ...] = ()  # empty: all
    seed: int = 0
    cores: int = 2  # of the cluster, which decide the number of shards
    pack: bool = True  # False: list the images without copying them
    label_from: str = FIRST  # a key of LABEL_FROM
    requester_pays: bool = False  # how an s3:// source is read; it does not decide what is drawn

    def __post_init__(self) -> None:
        if self.per_label is not None and self.total is not None:
            raise JobError("give a number of images per label or in total, not both")
        for name, value in (("images per label", self.per_label), ("images in total", self.total)):
            if value is not None and value < 1:
                raise JobError(f"{name} must be at least 1, not {value}")
        if self.label_from not in LABEL_FROM:
            raise JobError(f"label_from is {self.label_from!r}; expected one of {', '.join(LABEL_FROM)}")
        if not self.pack and not normalise_uri(self.source).startswith("s3://"):
            raise JobError(
                f"{self.source} is not an s3:// prefix: the workers cannot read it; pack its images instead"
            )

    @property
    def digest(self) -> str:
        """Digest of what is drawn, whatever the number of shards."""
        draw = [normalise_uri(self.source), self.per_label, self.total, sorted(self.labels), self.seed]
        # The default adds nothing, so that samples of older releases are still those of their request.
        label_from = [self.label_from] if self.label_from != FIRST else []
        return digest_of(json.dumps([*draw, self.pack, *label_from]))


def images_per_shard(images: int, cores: int) -> int:
    """Images of a full shard: SHARD_IMAGES, or fewer where each core would get too few shards."""
    return max(1, min(SHARD_IMAGES, images // (cores * SHARDS_PER_CORE)))
