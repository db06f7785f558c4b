"""A file of Keras weights, judged by its content and without Keras: its layout, and weights that cannot work.

The suffix says nothing here: a checkpoint may have any name, and Keras 2 and 3 give the same suffix to
different layouts.
"""

from __future__ import annotations

import enum
import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from image_features.errors import JobError, first_line

_ARCHIVED = "model.weights.h5"
_SHOWN = 3  # layers that a message names


class Layout(enum.StrEnum):
    """How the weights are stored; the value is the suffix by which Keras 3 chooses its reader."""

    KERAS_2 = ".h5"  # also of a whole model, and what Keras 3 calls legacy
    KERAS_3 = ".weights.h5"
    ARCHIVE = ".keras"  # a zip file with the weights in the layout of Keras 3


@dataclass(frozen=True)
class _Weight:
    layer: str
    is_scale: bool  # gamma of a batch normalisation
    values: np.ndarray


def check(file: Path, ends_in_convolution: bool) -> Layout:
    """The layout of a weights file. Raises JobError where it is none, or its features would mean nothing.

    That is: NaN or infinity, nothing but zeros, or a last layer that gives all images the same features.
    ``ends_in_convolution``: the network's features are those of its last convolution, without a shortcut.
    """
    if file.is_dir():
        kind = " (a SavedModel)" if (file / "saved_model.pb").exists() else ""
        raise JobError(f"the weights {file} are a folder{kind}; give a Keras weights file (.h5 or .keras)")
    if not file.is_file():
        raise JobError(
            f"the weights file {file} does not exist; expected imagenet, random:<seed> "
            "or a Keras weights file (.h5)"
        )
    try:
        with _opened(file) as (root, in_archive):
            layout, group = _layout_of(file, root)
            weights = list(_weights(group))
    except (OSError, KeyError, RuntimeError, ValueError, zipfile.BadZipFile) as error:
        raise JobError(f"the weights file {file} cannot be read: {first_line(error)}") from error
    _check_values(file, weights, ends_in_convolution)
    return Layout.ARCHIVE if in_archive else layout


@contextmanager
def _opened(file: Path) -> Iterator[tuple[h5py.File, bool]]:
    """The HDF5 root of the weights, and whether it is inside a ``.keras`` archive."""
    if h5py.is_hdf5(file):
        with h5py.File(file, "r") as root:
            yield root, False
        return
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if _ARCHIVED not in archive.namelist():
                raise JobError(f"the weights file {file} is a zip file without {_ARCHIVED}: no .keras file")
            with h5py.File(io.BytesIO(archive.read(_ARCHIVED)), "r") as root:
                yield root, True
        return
    with file.open("rb") as opened:
        start = opened.read(16)
    raise JobError(f"the weights file {file} is neither HDF5 nor a .keras file; it begins with {start!r}")


def _layout_of(file: Path, root: h5py.File) -> tuple[Layout, h5py.Group]:
    """The layout, and the group that holds the network's weights: an optimizer's are beside it."""
    if "layer_names" in root.attrs:
        return Layout.KERAS_2, root
    if "model_weights" in root:
        return Layout.KERAS_2, root["model_weights"]
    for name in ("layers", "_layer_checkpoint_dependencies"):
        if name in root:
            return Layout.KERAS_3, root[name]
    raise JobError(
        f"the weights file {file} is HDF5 but not by Keras: it has neither 'layer_names' nor 'layers', "
        f"but {', '.join(sorted(root)[:_SHOWN]) or 'nothing'}"
    )


def _weights(group: h5py.Group) -> Iterator[_Weight]:
    """The weights of all layers, in the order of the layers."""
    names: list[str] = []
    group.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) and item.size else None
    )
    order = {
        name.decode() if isinstance(name, bytes) else str(name): place
        for place, name in enumerate(group.attrs.get("layer_names", ()))
    }
    for name in sorted(names, key=lambda name: (order.get(name.partition("/")[0], 0), _natural(name))):
        if group[name].dtype.kind == "f":
            layer = name.partition("/")[0]
            is_normalisation = layer.startswith("batch_normalization") and name.endswith("vars/0")
            yield _Weight(layer, is_normalisation or "gamma" in name, group[name][()])


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts ``conv2d_10`` after ``conv2d_9`` and both after ``conv2d``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _check_values(file: Path, weights: list[_Weight], ends_in_convolution: bool) -> None:
    if not weights:
        raise JobError(f"the weights file {file} holds no weights")
    broken: dict[str, int] = {}
    for weight in weights:
        if count := weight.values.size - int(np.isfinite(weight.values).sum()):
            broken[weight.layer] = broken.get(weight.layer, 0) + count
    if broken:
        shown = ", ".join(f"{count:,} in {layer}" for layer, count in list(broken.items())[:_SHOWN])
        more = f" and {len(broken) - _SHOWN} more layers" if len(broken) > _SHOWN else ""
        raise JobError(
            f"the weights file {file} holds NaN or infinity, values: {shown}{more}; did its training diverge?"
        )
    kernels = [weight for weight in weights if weight.values.ndim > 1]
    if not any(weight.values.any() for weight in kernels or weights):
        raise JobError(f"the weights file {file} holds only zeros, so all features would be zero")
    if not ends_in_convolution:
        return
    scales = [weight for weight in weights if weight.is_scale]
    head = [weight for weight in kernels if weight.values.ndim == 4 and weight.values.shape[:2] == (1, 1)]
    for last in (*head[-1:], *scales[-1:]):
        # A scale of ones is that of a network whose normalisation was folded into the kernels.
        flat = not last.values.any() if last.is_scale else np.ptp(last.values) == 0
        if flat:
            raise JobError(
                f"the weights file {file} has the value {last.values.flat[0]:g} only in its last layer "
                f"{last.layer}, so all images would have the same features"
            )
