"""Labels of images: the folder that gives the label, and labels that are probably not what was meant."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from image_features.errors import JobError

FIRST, ONE = "first", "one"

LABEL_FROM = {
    FIRST: "first: the first folder below the source, unless the labels plainly lie deeper",
    "parent": "parent: the folder that holds the image",
    "1": "1: the first folder, whatever lies below",
    "2": "2: the second folder",
    "3": "3: the third folder",
    "4": "4: the fourth folder",
    ONE: "one: one label for all, the last part of the source's path",
}
"""What gives an image its label, with the texts of the trigger form."""

# A part of a data set rather than a label, once all but its letters are removed: "Training", "val2017".
_SPLIT = re.compile(r"(train(ing)?|test(ing)?|val(id(ation)?)?|dev|eval(uation)?|holdout)(set|data|images?)?")
_NO_LETTERS = re.compile(r"[\W\d_]+")


def label_of(name: str, label_from: str, source: str) -> str:
    """Label of a file by its path below the source; "" where it lies in no folder of a label.

    ``label_from``: a key of LABEL_FROM. ``source``: the source's URI.
    """
    if label_from == ONE:
        return source.rpartition("/")[2]
    folders = name.split("/")[:-1]
    place = {FIRST: 0, "parent": len(folders) - 1}.get(label_from)
    if place is None:
        place = int(label_from) - 1
    return folders[place] if 0 <= place < len(folders) else ""


def refuse_deeper_labels(names: Iterable[str], source: str) -> None:
    """Raise JobError where the first folders are plainly no labels: parts of a data set, or a single folder.

    ``names``: paths of the images below ``source``, a URI.
    """
    counts = Counter(name.rpartition("/")[0] for name in names)
    folders = [_Folder(tuple(path.split("/")), images) for path, images in sorted(counts.items()) if path]
    first = sorted({folder.path[0] for folder in folders})
    depth, prefix = 0, source
    while parts := _no_labels(folders, depth):
        folders = [each for each in folders if each.path[depth] in parts and len(each.path) > depth + 1]
        images = Counter[str]()
        for each in folders:
            images[each.path[depth]] += each.images
        prefix = f"{prefix}/{images.most_common(1)[0][0]}"
        depth += 1
    # A single folder in a single folder, and so on, is one label.
    if not depth or len({each.path[depth] for each in folders}) < 2:
        return
    example = next(
        path for each in folders if (path := f"{source}/{'/'.join(each.path)}").startswith(f"{prefix}/")
    )
    label = "/".join(example.removeprefix(f"{source}/").split("/")[: depth + 1])
    shown = ", ".join(map(repr, first[:3])) + (" ..." if len(first) > 3 else "")
    raise JobError(
        f"the first folders of {source} ({shown}) are no labels: these lie deeper, as {label!r} does. Give "
        f"{prefix} as the source, or label_from {depth + 1} for all of it; label_from 1 takes the first "
        "folders nevertheless"
    )


@dataclass(frozen=True)
class _Folder:
    """A folder that holds images: the parts of its path below the source."""

    path: tuple[str, ...]
    images: int


def _no_labels(folders: Sequence[_Folder], depth: int) -> set[str]:
    """Names at ``depth`` that hold most of the images, in further folders, and are plainly no labels."""
    images = sum(each.images for each in folders)
    deeper = [each for each in folders if len(each.path) > depth + 1]
    splits = [each for each in deeper if _SPLIT.fullmatch(_NO_LETTERS.sub("", each.path[depth].lower()))]
    if 2 * sum(each.images for each in splits) > images:
        return {each.path[depth] for each in splits}
    names = {each.path[depth] for each in folders}
    return names if len(names) == 1 and 2 * sum(each.images for each in deeper) > images else set()


def alike(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that differ only in their Unicode form (NFC, NFD) or in capitals."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(_nfc(_nfc(label).casefold()), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def matching(requested: Iterable[str], labels: Iterable[str]) -> Mapping[str, list[str]]:
    """For each requested label, the labels that are the same text in whatever Unicode form."""
    by_text: dict[str, list[str]] = {}
    for label in labels:
        by_text.setdefault(_nfc(label), []).append(label)
    return {label: by_text.get(_nfc(label), []) for label in requested}


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
