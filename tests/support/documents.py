"""Values of a run's JSON documents, and documents with other values as a faulty stage would write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from image_features.documents import sealed, unsealed


def values_of(path: Path) -> dict[str, Any]:
    """The values of a document, without their checksum."""
    return unsealed(path.read_bytes(), str(path), "a document")


def change_values(path: Path, **values: Any) -> None:
    """Replace values of a document, and its checksum with them."""
    path.write_bytes(sealed(values_of(path) | values))
