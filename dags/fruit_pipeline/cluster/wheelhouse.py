"""The wheels that cluster nodes install from the bucket, so that nodes need no internet.

The target ``emr`` is CPython 3.11 on Amazon Linux 2023 (glibc 2.34), x86-64 and arm64; ``host`` is this
machine.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image_features.contract import MARKER, digest_of
from image_features.documents import sealed, unsealed
from image_features.errors import Damaged, JobError
from image_features.storage import Storage

log = logging.getLogger(__name__)

REQUIREMENTS = "requirements-node.txt"

# The manylinux tags that glibc 2.34 supports, newest first; manylinux2014 is the old name of 2_17.
_MANYLINUX = (*(f"manylinux_2_{minor}" for minor in range(34, 16, -1)), "manylinux2014")


@dataclass(frozen=True)
class Wheelhouse:
    """A folder of wheels with one sub-folder a machine; its prefix in the bucket is the digest."""

    folder: Path
    digest: str

    @property
    def files(self) -> list[Path]:
        return sorted(file for file in self.folder.rglob("*") if file.is_file())

    def name_of(self, file: Path) -> str:
        """Name of one of ``files`` below the folder."""
        return file.relative_to(self.folder).as_posix()

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def build(requirements: Path, target: str, cache_dir: Path) -> Wheelhouse:
    """Download the pinned wheels for ``target`` ("emr" or "host"), or take them from the cache.

    Wheels of the cache that are not those of ``requirements`` are downloaded again. Raises JobError when a
    wheel cannot be downloaded.
    """
    digest = digest_for(requirements, target)
    folder = cache_dir / "wheelhouse" / digest
    if folder.is_dir():
        if damage := _damage(folder, requirements, target):
            log.warning("%s; the wheels are downloaded again", damage)
            shutil.rmtree(folder)
        else:
            return Wheelhouse(folder, digest)
    log.info("downloading the wheels of %s nodes", target)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheels = Path(scratch) / "wheels"
        for machine, options in _pip_options(target).items():
            _download(requirements, options, wheels / machine)
            shutil.copy(requirements, wheels / machine / REQUIREMENTS)
        # The rename is atomic; it fails where another process has written the same folder meanwhile.
        with contextlib.suppress(OSError):
            wheels.rename(folder)
    return Wheelhouse(folder, digest)


def _damage(folder: Path, requirements: Path, target: str) -> str | None:
    """What is wrong with downloaded wheels; None when each machine has all of them, as they are pinned."""
    text = requirements.read_text()
    pinned = sum("==" in line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for machine in _pip_options(target):
        own, wheels = folder / machine, sorted((folder / machine).glob("*.whl"))
        if len(wheels) != pinned:
            return f"{own} has {len(wheels)} wheels, {requirements} names {pinned}"
        for wheel in wheels:
            if f"--hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}" not in text:
                return f"{wheel} has none of the SHA-256 in {requirements}"
        copied = own / REQUIREMENTS
        if not copied.is_file() or copied.read_text() != text:
            return f"{copied} is not {requirements}"
    return None


def digest_for(requirements: Path, target: str) -> str:
    """Digest of everything that decides which wheels are downloaded."""
    host = (sys.platform, platform.machine(), platform.python_version()) if target == "host" else ()
    return digest_of(target, *host, *_MANYLINUX, requirements.read_text())


def publish(wheelhouse: Wheelhouse, target: Storage) -> str:
    """Upload the wheels below ``target`` under their digest unless they are there; return the URI.

    They are there when each object has the size and version (S3's ETag) that its upload gave it; so a changed
    or lost wheel is uploaded again without reading the others.
    """
    if _uploaded(wheelhouse, target) != _listed(wheelhouse, target):
        log.info("uploading %.0f MB of wheels", wheelhouse.bytes / 1e6)
        target.delete([f"{wheelhouse.digest}/{MARKER}"])
        for file in wheelhouse.files:
            target.put(f"{wheelhouse.digest}/{wheelhouse.name_of(file)}", file)
        marker = {"objects": _listed(wheelhouse, target)}
        target.put(f"{wheelhouse.digest}/{MARKER}", sealed(marker))
    return target.uri_of(wheelhouse.digest)


def _uploaded(wheelhouse: Wheelhouse, target: Storage) -> Any:
    """Size and version of each object by its name, as the marker of an upload has them; None without one."""
    key = f"{wheelhouse.digest}/{MARKER}"
    try:
        data = target.get_or_none(key)
        return None if data is None else unsealed(data.to_pybytes(), key, "a marker of wheels").get("objects")
    except Damaged:
        return None


def _listed(wheelhouse: Wheelhouse, target: Storage) -> dict[str, list[Any]]:
    """Size and version of each object that is there now, by its name."""
    names = {wheelhouse.name_of(file) for file in wheelhouse.files}
    objects = ((obj, obj.key.removeprefix(f"{wheelhouse.digest}/")) for obj in target.list(wheelhouse.digest))
    return {name: [obj.size, obj.version] for obj, name in objects if name in names}


def _pip_options(target: str) -> dict[str, list[str]]:
    """Options of pip that choose the wheels, by machine (``uname -m``); without any, this interpreter's."""
    if target == "host":
        return {platform.machine(): []}
    common = ["--implementation", "cp", "--python-version", "3.11"]
    return {
        machine: common + [option for libc in _MANYLINUX for option in ("--platform", f"{libc}_{machine}")]
        for machine in ("x86_64", "aarch64")
    }


def _download(requirements: Path, options: list[str], folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--no-deps", "--require-hashes", "--requirement", str(requirements)]
    result = subprocess.run(
        [*command, *options, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
        raise JobError(
            f"the wheels of the nodes cannot be downloaded: {(lines or [result.stderr])[-1].strip()}"
        )
