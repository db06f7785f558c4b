"""The share of rejects above which a run is refused."""

from __future__ import annotations

from image_features.contract import FeaturesMarker
from image_features.step import Failed


def refuse_too_many(marker: FeaturesMarker, limit: float, rejects: str) -> None:
    """Raise Failed when more than ``limit`` (0 to 1) of the images are rejects; they lie in ``rejects``."""
    if marker.rejects <= limit * marker.images:
        return
    reasons = sorted(marker.rejects_by_reason.items(), key=lambda item: -item[1])
    raise Failed(
        f"{marker.rejects:,} of {marker.images:,} images were rejected "
        f"({', '.join(f'{count:,} {reason}' for reason, count in reasons)}), more than the share of "
        f"{limit:g} that max_reject_rate allows; {rejects} names each with its reason. Mend the source and "
        "draw it anew, or run again under this key with a higher max_reject_rate: nothing is computed again"
    )
