"""The wheels that cluster nodes install from the bucket, so that nodes need no internet.

The target ``emr`` is CPython 3.11 on Amazon Linux 2023 (glibc 2.34), x86-64 and arm64; ``host`` is this
machine.
"""

from __future__ import annotations

import contextlib
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from image_features.contract import MARKER, digest_of
from image_features.errors import JobError
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

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)


def build(requirements: Path, target: str, cache_dir: Path) -> Wheelhouse:
    """Download the pinned wheels for ``target`` ("emr" or "host"), or take them from the cache.

    Raises JobError when a wheel cannot be downloaded.
    """
    digest = digest_for(requirements, target)
    folder = cache_dir / "wheelhouse" / digest
    if folder.is_dir():
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


def digest_for(requirements: Path, target: str) -> str:
    """Digest of everything that decides which wheels are downloaded."""
    host = (sys.platform, platform.machine(), platform.python_version()) if target == "host" else ()
    return digest_of(target, *host, *_MANYLINUX, requirements.read_text())


def publish(wheelhouse: Wheelhouse, target: Storage) -> str:
    """Upload the wheels below ``target`` under their digest unless they are there; return the URI."""
    if not target.exists(f"{wheelhouse.digest}/{MARKER}"):
        log.info("uploading %.0f MB of wheels", wheelhouse.bytes / 1e6)
        for file in wheelhouse.files:
            target.put(f"{wheelhouse.digest}/{file.relative_to(wheelhouse.folder).as_posix()}", file)
        target.put(f"{wheelhouse.digest}/{MARKER}", b"{}")
    return target.uri_of(wheelhouse.digest)


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
