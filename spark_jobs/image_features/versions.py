"""Versions of the software that computes on a node."""

from __future__ import annotations

import hashlib
import importlib.metadata
import pkgutil
import platform
import sys
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "pillow", "pyarrow", "obstore", "ai-edge-litert")

# Pillow's wheel contains the decoders, LiteRT's the kernels; numpy only looks values up in a table.
_DECIDING = ("pillow", "ai-edge-litert")

DECIDING_MODULES = ("images", "pixels", "decoder_limits", "inference")
"""The modules of this package that decide an image's features, or whether it has any."""


def installed() -> dict[str, str]:
    """Versions of Python and of the nodes' packages, by name."""
    return {"python": platform.python_version(), **{package: _version(package) for package in _PACKAGES}}


def of_spark(spark: Any) -> dict[str, str]:
    """Versions of a session's Spark and Java, by name."""
    java = spark.sparkContext._jvm.java.lang.System.getProperty("java.version")
    return {"spark": spark.version, "java": java}


def deciding() -> str:
    """What decides an image's features, beside its bytes, the backbone and the preprocessing's settings.

    These are the versions of decoders and kernels, and a digest of this package's own code.
    """
    packages = [f"{package} {_version(package)}" for package in _DECIDING]
    return ", ".join([*packages, f"code {code_digest()[:16]}"])


def code_digest() -> str:
    """SHA-256 (hex) of the source of DECIDING_MODULES, which nodes import from a zip file."""
    digest = hashlib.sha256()
    for name in DECIDING_MODULES:
        source = pkgutil.get_data(__package__, f"{name}.py") or b""
        digest.update(hashlib.sha256(source).digest())
    return digest.hexdigest()


def _version(package: str) -> str:
    # Folders only: importlib.metadata would list Spark's zipped Python again for each package.
    folders = [entry for entry in sys.path if Path(entry).is_dir()]
    return next(iter(importlib.metadata.distributions(name=package, path=folders))).version
