"""Where images come from: a folder, or an ``s3://`` prefix, with one sub-folder a label."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from image_features.errors import InvalidKey, JobError
from image_features.storage import Storage, normalise_uri

# What Pillow decodes and people keep images as; anything else in a folder (notes, thumbs.db) is
# not an image by its name and is left out. A file with such a name that is no image is a reject.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"),
    *(".jp2", ".ppm", ".pgm", ".pnm", ".pfm"),
)

LEFT_OUT = "no images by their name, hidden, links to elsewhere, or no files (pipes, devices)"

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are left out, by name: a worker holds whole files, and one photo of 50 megapixels has no more
than this in any format that people keep photos in."""

_NO_PATH = (
    "a key with an empty part, '.', '..' or a control character names no path; rename or delete that "
    "object, or give a prefix beside it"
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
    """What a source holds: images sorted by name, and how many files were left out."""

    images: list[SourceImage]
    unlabelled: int  # images that lie in no label folder
    ignored: int  # files that are no images by their name, hidden, links that lead out, pipes, devices
    oversized: tuple[str, ...] = ()  # images of more than MAX_FILE_BYTES, by name


class Source:
    """The images of a folder or an ``s3://`` prefix."""

    def __init__(self, uri: str, storage: Storage | None = None) -> None:
        """``storage`` reads an ``s3://`` source; a folder is read directly."""
        self.uri = normalise_uri(uri)
        self._folder = Path(self.uri.removeprefix("file://")) if self.uri.startswith("file://") else None
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
            # A million images are held at a time; their labels are few.
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
        path = self._folder / image.image
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise JobError(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise JobError(f"{path} has grown over {MAX_FILE_BYTES:,} bytes since it was listed; draw again")
        return content

    def _walk(self) -> Iterator[tuple[str, int | None, str]]:
        """Every file's path below the source, size and version; size None: it must not be followed."""
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

    top = root.resolve()
    for folder, folders, names in os.walk(root, onerror=refuse):
        # A linked folder is not walked; it is counted, so that its images are not missed in silence.
        linked = (Path(folder, name) for name in folders if Path(folder, name).is_symlink())
        yield from ((path.relative_to(root).as_posix(), None) for path in linked)
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            try:
                relative.encode()
            except UnicodeEncodeError:
                raise JobError(f"the file name {os.fsencode(path)!r} is not UTF-8; rename it") from None
            # A link that leads out of the source would copy what nobody meant to upload.
            if path.is_symlink() and not _stays_inside(path, top):
                yield relative, None
                continue
            try:
                found = path.stat()
            except OSError as error:
                raise JobError(f"cannot read {path}: {error.strerror}") from error
            # To read a pipe would wait for a writer, and a device has no end.
            yield relative, found.st_size if stat.S_ISREG(found.st_mode) else None


def _stays_inside(link: Path, top: Path) -> bool:
    try:
        return top in link.resolve().parents
    except (OSError, RuntimeError):  # links that lead to each other in a circle
        return False


def sort_by_name(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Images in order of their names, which are unique in a source."""
    return sorted(images, key=attrgetter("image"))


def group_by_label(images: Iterable[SourceImage]) -> dict[str, list[SourceImage]]:
    """Group images by label, labels in order of their name."""
    groups: dict[str, list[SourceImage]] = {}
    for image in images:
        groups.setdefault(image.label, []).append(image)
    return dict(sorted(groups.items()))
