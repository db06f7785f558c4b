"""The source of images: a folder or an ``s3://`` prefix, with one sub-folder a label."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from image_features.errors import InvalidKey, JobError
from image_features.storage import Storage, local_path, normalise_uri

# Formats that Pillow decodes and that are common for images. A file with another suffix (notes, thumbs.db) is
# left out of the draw; a file with one of these suffixes that is no image becomes a reject.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".ppm", ".pgm", ".pnm", ".pfm"),
)

LEFT_OUT = "no suffix of an image, hidden, links out of the source, or pipes and devices"

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are left out and named in the log: a worker keeps whole files in memory, and a photo of 50
megapixels is smaller than this in every common format."""

_NO_PATH = (
    "a key with an empty part, '.', '..' or a control character is not a path; rename or delete that "
    "object, or give a prefix that does not contain it"
)


@dataclass(frozen=True, order=True, slots=True)
class SourceImage:
    """One image file: ``image`` is its path below the source, ``label`` the first folder of it."""

    image: str
    label: str
    size: int  # bytes
    version: str = ""  # ETag of an object


@dataclass(frozen=True)
class Listing:
    """The content of a source: images sorted by name, and how many files were left out."""

    images: list[SourceImage]
    unlabelled: int  # images that are in no label folder
    ignored: int  # files that LEFT_OUT describes
    oversized: tuple[str, ...] = ()  # images of more than MAX_FILE_BYTES, by name


class Source:
    """The images of a folder or an ``s3://`` prefix."""

    def __init__(self, uri: str, storage: Storage | None = None) -> None:
        """``storage`` reads an ``s3://`` source; a folder is read directly."""
        self.uri = normalise_uri(uri)
        self._folder = local_path(self.uri) if self.uri.startswith("file://") else None
        self._storage = storage or (None if self._folder else Storage(self.uri))

    def list(self) -> Listing:
        """List the images. Raises JobError when there are none, or no label folders."""
        images: list[SourceImage] = []
        oversized: list[str] = []
        labels: dict[str, str] = {}
        unlabelled = ignored = 0
        for name, size, version in self._walk():
            hidden = any(part.startswith(".") for part in name.split("/"))
            if size is None or hidden or not name.lower().endswith(IMAGE_SUFFIXES):
                ignored += 1
                continue
            label, _, rest = name.partition("/")
            if not rest:
                unlabelled += 1
                continue
            if size > MAX_FILE_BYTES:
                oversized.append(name)
                continue
            # One string a label, shared: the list may have a million images.
            images.append(SourceImage(name, labels.setdefault(label, label), size, version))
        if not images:
            if unlabelled:
                raise JobError(
                    f"{self.uri} has {unlabelled} images but no label folders; "
                    "expected <source>/<label>/<image>"
                )
            raise JobError(
                f"{self.uri} has no images; expected <source>/<label>/<image> "
                f"(left out {ignored} files: {LEFT_OUT}; {len(oversized)} that are too large)"
            )
        return Listing(sort_by_name(images), unlabelled, ignored, tuple(sorted(oversized)))

    def read(self, image: SourceImage) -> bytes:
        """The file's bytes. Raises JobError when it cannot be read."""
        if self._folder is None:
            return self._s3().get(image.image).to_pybytes()
        path = self._folder / os.fsdecode(image.image.encode())
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise JobError(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise JobError(f"{path} has grown over {MAX_FILE_BYTES:,} bytes since it was listed; draw again")
        return content

    def _walk(self) -> Iterator[tuple[str, int | None, str]]:
        """Yield path below the source, size and version of each file; size None: it must not be read."""
        if self._folder is None:
            try:
                for obj in self._s3().list():
                    if not obj.key.endswith("/"):
                        yield obj.key, obj.size, obj.version
            except InvalidKey as error:
                raise InvalidKey(f"{error}: {_NO_PATH}") from error
        else:
            yield from ((name, size, "") for name, size in _walk_folder(self._folder))

    def _s3(self) -> Storage:
        if self._storage is None:
            raise TypeError("a folder has no storage")
        return self._storage


def _walk_folder(root: Path) -> Iterator[tuple[str, int | None]]:
    if not root.exists():
        raise JobError(f"{root} does not exist; expected a folder with one sub-folder a label")
    if not root.is_dir():
        raise JobError(f"{root} is not a folder")

    def refuse(error: OSError) -> None:
        raise JobError(f"cannot list {error.filename}: {error.strerror}") from error

    resolved_root = root.resolve()
    for folder, folders, names in os.walk(root, onerror=refuse):
        # A linked folder is not walked, but it is counted, so that the log mentions it.
        linked = (Path(folder, name) for name in folders if Path(folder, name).is_symlink())
        yield from ((_name_below(root, path), None) for path in linked)
        for name in names:
            path = Path(folder, name)
            relative = _name_below(root, path)
            # A link out of the source could upload files that were not meant to be.
            if path.is_symlink() and not _stays_inside(path, resolved_root):
                yield relative, None
                continue
            try:
                status = path.stat()
            except OSError as error:
                raise JobError(f"cannot read {path}: {error.strerror}") from error
            # Reading a pipe would wait for a writer, and a device has no end.
            yield relative, status.st_size if stat.S_ISREG(status.st_mode) else None


def _name_below(root: Path, path: Path) -> str:
    """Name of a file below ``root``: its bytes are UTF-8, whatever the locale. Raises JobError if not."""
    try:
        return os.fsencode(path.relative_to(root)).decode()
    except UnicodeDecodeError:
        raise JobError(f"the file name {os.fsencode(path)!r} is not UTF-8; rename it") from None


def _stays_inside(link: Path, resolved_root: Path) -> bool:
    try:
        return resolved_root in link.resolve().parents
    except (OSError, RuntimeError):  # a loop of links
        return False


def sort_by_name(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Sort images by name; names are unique in a source."""
    return sorted(images, key=attrgetter("image"))


def group_by_label(images: Iterable[SourceImage]) -> dict[str, list[SourceImage]]:
    """Group images by label, labels sorted by name."""
    groups: dict[str, list[SourceImage]] = {}
    for image in images:
        groups.setdefault(image.label, []).append(image)
    return dict(sorted(groups.items()))
