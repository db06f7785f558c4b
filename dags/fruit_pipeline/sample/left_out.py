"""The files of a source that are not in the sample: their kinds, their counts, and texts about them."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from image_features.contract import LeftOut, LeftOutReason
from image_features.errors import JobError
from image_features.images import FORMATS

MEANINGS = {
    LeftOutReason.NOT_DRAWN: "An image that the draw did not choose.",
    LeftOutReason.NO_DECODER: "A format of images that is not decoded here; convert it to JPEG or PNG.",
    LeftOutReason.NO_IMAGE: "No suffix of an image.",
    LeftOutReason.NO_LABEL: "An image that lies in no folder of a label.",
    LeftOutReason.TOO_LARGE: "More than 256 MB: a worker keeps whole files in memory.",
    LeftOutReason.LINK: "A link that leads out of the source, or to a folder.",
    LeftOutReason.NO_FILE: "A pipe, socket or device.",
    LeftOutReason.HIDDEN: "Its name, or that of a folder, begins with a dot.",
    LeftOutReason.SYSTEM_FOLDER: "In a folder that a storage device or an operating system makes.",
}

SYSTEM_FOLDERS = frozenset(
    {
        *("@eadir", "@tmp", "@recycle", "#recycle", "#snapshot", "@__thumb", ".@__thumb"),  # storage devices
        *("lost+found", "$recycle.bin", "recycler", "system volume information"),  # Linux, Windows
        *("__macosx", ".thumbnails", ".spotlight-v100", ".trashes", ".fseventsd"),  # macOS, desktops
    }
)
"""Folders that are no labels and hold no images of the user, in lower case."""

# Formats of photos that Pillow has no decoder for: of phones, JPEG's successors, and raw data of cameras.
_UNKNOWN_TO_PILLOW = (
    *(".heic", ".heif", ".hif", ".jxl", ".jxr", ".wdp", ".bpg", ".svg", ".svgz", ".exr", ".hdr", ".dcm"),
    *(".dng", ".raw", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".sr2", ".srf", ".orf", ".rw2"),
    *(".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".mrw", ".kdc", ".dcr", ".erf", ".rwl", ".gpr"),
)

# Formats that a decoder of another name reads: MPO by JPEG's, a DIB with a file header by BMP's.
_DECODED_AS = {"MPO": "JPEG", "DIB": "BMP"}

_SUFFIX = re.compile(r".\.([A-Za-z0-9]{1,8})\Z", re.DOTALL)
_SUFFIXES = 20  # that are counted by themselves, of each reason
_OTHER_SUFFIXES = "*"
_LABELS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class LeftOutFile:
    """A file of the source that is not in the sample."""

    file: str  # its path below the source
    label: str  # "" where it has none
    reason: LeftOutReason


@functools.cache
def image_suffixes() -> tuple[str, ...]:
    """Suffixes of the formats that the nodes decode, in lower case, as the decoder registers them."""
    Image.init()
    registered = Image.registered_extensions().items()
    return tuple(sorted(suffix for suffix, name in registered if _DECODED_AS.get(name, name) in FORMATS))


@functools.cache
def undecoded_suffixes() -> frozenset[str]:
    """Suffixes of formats of images that are not decoded."""
    Image.init()
    return frozenset({*Image.registered_extensions(), *_UNKNOWN_TO_PILLOW} - {*image_suffixes()})


def suffix_of(name: str) -> str:
    """Suffix of a file in lower case, with its dot; "" for none, or for text that is no suffix."""
    match = _SUFFIX.search(name.rpartition("/")[2])
    return f".{match[1].lower()}" if match else ""


def reason_of_name(name: str) -> LeftOutReason | None:
    """Why a file of this name is left out; None for the name of an image."""
    *folders, file = name.split("/")
    if any(folder.lower() in SYSTEM_FOLDERS for folder in folders):
        return LeftOutReason.SYSTEM_FOLDER
    if file.startswith(".") or any(folder.startswith(".") for folder in folders):
        return LeftOutReason.HIDDEN
    suffix = suffix_of(file)
    if suffix in image_suffixes():
        return None
    return LeftOutReason.NO_DECODER if suffix in undecoded_suffixes() else LeftOutReason.NO_IMAGE


def count(files: Iterable[LeftOutFile]) -> list[LeftOut]:
    """Count files by reason and suffix, the most frequent suffixes first."""
    counts: dict[LeftOutReason, Counter[str]] = {}
    examples: dict[tuple[str, str], str] = {}
    for each in files:
        suffix = suffix_of(each.file)
        counts.setdefault(each.reason, Counter())[suffix] += 1
        key = (each.reason, suffix)
        examples[key] = min(examples.get(key, each.file), each.file)
    rows: list[LeftOut] = []
    for reason in LeftOutReason:
        by_suffix = sorted(counts.get(reason, Counter()).items(), key=lambda item: (-item[1], item[0]))
        rows += [LeftOut(reason, suffix, n, examples[reason, suffix]) for suffix, n in by_suffix[:_SUFFIXES]]
        if rest := by_suffix[_SUFFIXES:]:
            example = min(examples[reason, suffix] for suffix, _ in rest)
            rows.append(LeftOut(reason, _OTHER_SUFFIXES, sum(n for _, n in rest), example))
    return rows


def check_losses(rows: Iterable[LeftOut], images: int, limit: float) -> None:
    """Raise JobError when more than ``limit`` (0 to 1) of the source's images are left out.

    ``images``: those of the sample. Images that the draw did not choose do not count.
    """
    lost = [row for row in rows if row.is_loss]
    files = sum(row.files for row in lost)
    if files > limit * (images + files):
        raise JobError(
            f"{files:,} files of the source are left out, for {images:,} images drawn: {text(lost)}; "
            f"more than the share of {limit:g} that max_reject_rate allows, as count_left_out is set. Mend "
            "the source and use another run key, or raise max_reject_rate"
        )


def by_reason(rows: Iterable[LeftOut]) -> dict[str, list[LeftOut]]:
    """Group counts by their reason, in their order."""
    groups: dict[str, list[LeftOut]] = {}
    for row in rows:
        groups.setdefault(row.reason, []).append(row)
    return groups


def text(rows: Iterable[LeftOut]) -> str:
    """Counts as one line, such as ``5 no-decoder (4 .heic, 1 .jxl), 1 hidden (1 without suffix)``."""
    return ", ".join(
        f"{sum(row.files for row in group):,} {reason} ({', '.join(map(_suffix_text, group))})"
        for reason, group in by_reason(rows).items()
    )


def meaning(reason: str) -> str:
    """A sentence about a reason; "" for a reason of another release."""
    return MEANINGS.get(LeftOutReason(reason), "") if reason in set(LeftOutReason) else ""


def names(labels: Sequence[str]) -> str:
    """The first few of some labels, quoted, and how many more there are."""
    more = len(labels) - _LABELS_SHOWN
    shown = ", ".join(map(repr, labels[:_LABELS_SHOWN]))
    return shown + (f" and {more:,} more" if more > 0 else "")


def _suffix_text(row: LeftOut) -> str:
    suffixes = {"": "without suffix", _OTHER_SUFFIXES: "of other suffixes"}
    return f"{row.files:,} {suffixes.get(row.suffix, row.suffix)}"
