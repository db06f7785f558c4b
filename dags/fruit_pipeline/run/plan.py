"""What a run computes, for its estimate."""

from __future__ import annotations

from fruit_pipeline.cost import estimate, measured
from fruit_pipeline.run.request import RunRequest


def work_of(request: RunRequest, images: int = 1, total_bytes: int | None = None) -> estimate.Work:
    """What a run computes, for its estimate; ``total_bytes`` of its image files, where they are known."""
    image_bytes = measured.SMALL_IMAGE_BYTES if total_bytes is None else total_bytes / max(images, 1)
    return estimate.Work(
        images,
        image_bytes,
        request.backbone,
        request.alpha,
        request.input_size,
        request.precision,
        request.pack,
    )
