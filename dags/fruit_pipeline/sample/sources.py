"""The source of images: a folder or an ``s3://`` prefix, in which folders give the labels."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from fruit_pipeline.sample.labels import FIRST, label_of, refuse_deeper_labels
from fruit_pipeline.sample.left_out import LeftOutFile, count, reason_of_name, text
from image_features.contract import LeftOutReason
from image_features.errors import InvalidKey, JobError
from image_features.storage import S3Access, Storage, StoredObject, local_path, normalise_uri

MAX_FILE_BYTES = 256 * 2**20
"""Larger files are left out: a worker keeps whole files in memory, and a photo of 50 megapixels is smaller
than this in every common format."""

_NO_PATH = (
    "a key with an empty part, '.', '..' or a control character is not a path; rename or delete that "
    "object, or give a prefix that does not contain it"
)


@dataclass(frozen=True, order=True, slots=True)
class SourceImage:
    """One image file: ``image`` is its path below the source."""

    image: str
    label: str
    size: int  # bytes
    version: str = ""  # ETag of an object


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the source, whatever it is. ``reason``: why it must not be read, if it is known already."""

    name: str  # its path below the source
    size: int  # bytes
    version: str = ""  # ETag of an object
    reason: LeftOutReason | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a source: images sorted by name, and the other files."""

    images: list[SourceImage]
    left_out: list[LeftOutFile]

    @property
    def lost_labels(self) -> list[str]:
        """Labels all of whose files are left out, though some may be images; sorted."""
        lost = {each.label for each in self.left_out if each.label and each.reason.is_loss}
        return sorted(lost - {image.label for image in self.images})


class Source:
    """The images of a folder or an ``s3://`` prefix."""

    def __init__(self, uri: str, storage: Storage | None = None, access: S3Access | None = None) -> None:
        """``storage`` reads an ``s3://`` source, by default with ``access``; a folder is read directly."""
        self.uri = normalise_uri(uri)
        self._folder = local_path(self.uri) if self.uri.startswith("file://") else None
        self._storage = storage or (None if self._folder else Storage(self.uri, access))

    def list(self, label_from: str = FIRST) -> Listing:
        """List the images. Raises JobError when there are none, or none with a label.

        ``label_from``: a key of LABEL_FROM; with the first, JobError also where the labels lie deeper.
        """
        images: list[SourceImage] = []
        left_out: list[LeftOutFile] = []
        labels: dict[str, str] = {}
        for file in self._walk():
            label = label_of(file.name, label_from, self.uri)
            # One string a label, shared: the list may have a million images.
            label = labels.setdefault(label, label)
            reason = _reason_of(file, label)
            if reason is None:
                images.append(SourceImage(file.name, label, file.size, file.version))
            else:
                left_out.append(LeftOutFile(file.name, label, reason))
        if not images:
            unlabelled = sum(each.reason is LeftOutReason.NO_LABEL for each in left_out)
            if unlabelled:
                raise JobError(
                    f"{self.uri} has {unlabelled} images but no label folders; expected "
                    "<source>/<label>/<image>, or label_from one"
                )
            files = f"; left out: {text(count(left_out))}" if left_out else ""
            raise JobError(f"{self.uri} has no images; expected <source>/<label>/<image>{files}")
        if label_from == FIRST:
            refuse_deeper_labels((image.image for image in images), self.uri)
        return Listing(sort_by_name(images), left_out)

    def read(self, image: SourceImage) -> bytes:
        """The file's bytes. Raises JobError when it cannot be read."""
        if self._folder is None:
            # An empty object is not read: it may be a folder of the S3 console, whose key ends in a slash.
            return self._s3().get(image.image).to_pybytes() if image.size else b""
        path = self._folder / os.fsdecode(image.image.encode())
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise JobError(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MAX_FILE_BYTES:
            raise JobError(f"{path} has grown over {MAX_FILE_BYTES:,} bytes since it was listed; draw again")
        return content

    def _walk(self) -> Iterator[SourceFile]:
        if self._folder is None:
            try:
                yield from _without_folders(self._s3().list())
            except InvalidKey as error:
                raise InvalidKey(f"{error}: {_NO_PATH}") from error
        else:
            yield from _walk_folder(self._folder)

    def _s3(self) -> Storage:
        if self._storage is None:
            raise TypeError("a folder has no storage")
        return self._storage


def _without_folders(objects: Iterable[StoredObject]) -> Iterator[SourceFile]:
    """The objects that are files.

    The console of S3 makes an empty object ``a/`` for a folder ``a``, which obstore lists as ``a``.
    """
    folders = {""}
    empty: list[StoredObject] = []
    for obj in objects:
        folder = obj.key.rpartition("/")[0]
        while folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
        if obj.size:
            yield SourceFile(obj.key, obj.size, obj.version)
        else:
            empty.append(obj)
    yield from (SourceFile(obj.key, 0, obj.version) for obj in empty if obj.key not in folders)


def _reason_of(file: SourceFile, label: str) -> LeftOutReason | None:
    """Why a file is left out; None for an image of the source."""
    by_name = reason_of_name(file.name)
    if by_name in (LeftOutReason.SYSTEM_FOLDER, LeftOutReason.HIDDEN):
        return by_name
    if file.reason or by_name:
        return file.reason or by_name
    if not label:
        return LeftOutReason.NO_LABEL
    return LeftOutReason.TOO_LARGE if file.size > MAX_FILE_BYTES else None


def _walk_folder(root: Path) -> Iterator[SourceFile]:
    if not root.exists():
        raise JobError(f"{root} does not exist; expected a folder with one sub-folder a label")
    if not root.is_dir():
        raise JobError(f"{root} is not a folder")

    locked: list[SourceFile] = []

    def refuse(error: OSError) -> None:
        name = _name_below(root, Path(error.filename))
        if reason_of_name(f"{name}/") is not LeftOutReason.SYSTEM_FOLDER:  # lost+found is root's own
            raise JobError(f"cannot list {error.filename}: {error.strerror}") from error
        locked.append(SourceFile(f"{name}/", 0, reason=LeftOutReason.SYSTEM_FOLDER))

    resolved_root = root.resolve()
    for folder, folders, names in os.walk(root, onerror=refuse):
        # A linked folder is not walked, but it is counted.
        linked = (Path(folder, name) for name in folders if Path(folder, name).is_symlink())
        yield from (SourceFile(_name_below(root, path), 0, reason=LeftOutReason.LINK) for path in linked)
        for name in names:
            path = Path(folder, name)
            relative = _name_below(root, path)
            # A link out of the source could upload files that were not meant to be.
            if path.is_symlink() and not _stays_inside(path, resolved_root):
                yield SourceFile(relative, 0, reason=LeftOutReason.LINK)
                continue
            try:
                status = path.stat()
            except OSError as error:
                raise JobError(f"cannot read {path}: {error.strerror}") from error
            # Reading a pipe would wait for a writer, and a device has no end.
            readable = stat.S_ISREG(status.st_mode)
            yield SourceFile(relative, status.st_size, reason=None if readable else LeftOutReason.NO_FILE)
    yield from locked


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
