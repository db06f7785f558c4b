"""A weights file that cannot work is refused by its content, in one line, without TensorFlow."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from fruit_pipeline.model import weights_file
from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
from fruit_pipeline.model.weights_file import Layout
from image_features.errors import JobError
from support.processes import python

Change = Callable[[dict[str, np.ndarray]], None]


def weights() -> dict[str, np.ndarray]:
    """The ends of a network, by their names in the layout of Keras 2."""
    chance = np.random.default_rng(0)
    return {
        "Conv1/Conv1/kernel:0": chance.normal(size=(3, 3, 3, 8)).astype(np.float32),
        "Conv_0/Conv_0/kernel:0": chance.normal(size=(1, 1, 8, 8)).astype(np.float32),
        "Conv_1/Conv_1/kernel:0": chance.normal(size=(1, 1, 8, 16)).astype(np.float32),
        "Conv_1_bn/Conv_1_bn/gamma:0": np.ones(16, np.float32),
        "Conv_1_bn/Conv_1_bn/beta:0": np.zeros(16, np.float32),
    }


IN_KERAS_3 = {
    "Conv1/Conv1/kernel:0": "layers/conv2d/vars/0",
    "Conv_0/Conv_0/kernel:0": "layers/conv2d_9/vars/0",
    "Conv_1/Conv_1/kernel:0": "layers/conv2d_10/vars/0",
    "Conv_1_bn/Conv_1_bn/gamma:0": "layers/batch_normalization_10/vars/0",
    "Conv_1_bn/Conv_1_bn/beta:0": "layers/batch_normalization_10/vars/1",
}


def keras_2(file: Path, values: dict[str, np.ndarray], group: str = "/") -> None:
    with h5py.File(file, "w") as root:
        target = root.require_group(group)
        target.attrs["layer_names"] = [b"Conv1", b"Conv_0", b"Conv_1", b"Conv_1_bn"]
        for name, array in values.items():
            target[name] = array


def whole_model(file: Path, values: dict[str, np.ndarray]) -> None:
    keras_2(file, values, "model_weights")
    with h5py.File(file, "a") as root:
        root["optimizer_weights/v"] = np.full(3, np.nan)  # not the network's


def keras_3(file: Path, values: dict[str, np.ndarray]) -> None:
    with h5py.File(file, "w") as root:
        for name, array in values.items():
            root[IN_KERAS_3[name]] = array
        root["optimizer/vars/0"] = np.full(3, np.nan)


def archive(file: Path, values: dict[str, np.ndarray]) -> None:
    inner = file.with_suffix(".inner")
    keras_3(inner, values)
    with zipfile.ZipFile(file, "w") as target:
        target.write(inner, "model.weights.h5")


LAYOUTS = {
    "Keras 2": (keras_2, Layout.KERAS_2),
    "a whole model": (whole_model, Layout.KERAS_2),
    "Keras 3": (keras_3, Layout.KERAS_3),
    "an archive": (archive, Layout.ARCHIVE),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def written(folder: Path, layout: str, change: Change | None = None) -> Path:
    values, file = weights(), folder / "weights.best"
    if change:
        change(values)
    LAYOUTS[layout][0](file, values)
    return file


def refusal(file: Path | str) -> str:
    with pytest.raises(JobError) as caught:
        BackboneRequest(weights=str(file)).check_weights_file()
    message = str(caught.value)
    assert "\n" not in message
    return message


@each_layout
def test_the_layout_is_that_of_the_content(layout: str, tmp_path: Path) -> None:
    file = written(tmp_path, layout)
    assert BackboneRequest(weights=str(file)).check_weights_file() is LAYOUTS[layout][1]


@each_layout
def test_nan_is_counted_by_layer(layout: str, tmp_path: Path) -> None:
    def change(values: dict[str, np.ndarray]) -> None:
        values["Conv1/Conv1/kernel:0"].flat[:3] = [np.nan, np.inf, -np.inf]

    layer = "Conv1" if "2" in layout or "whole" in layout else "conv2d"
    message = refusal(written(tmp_path, layout, change))
    assert f"holds NaN or infinity, values: 3 in {layer}; did its training diverge?" in message


@each_layout
def test_zeros_are_refused(layout: str, tmp_path: Path) -> None:
    def change(values: dict[str, np.ndarray]) -> None:
        for array in values.values():
            array[...] = 0

    message = refusal(written(tmp_path, layout, change))
    assert "holds only zeros, so all features would be zero" in message


@each_layout
@pytest.mark.parametrize(
    ("name", "value"),
    [("Conv_1/Conv_1/kernel:0", 0), ("Conv_1/Conv_1/kernel:0", 0.5), ("Conv_1_bn/Conv_1_bn/gamma:0", 0)],
)
def test_a_flat_head_is_refused_and_named(layout: str, name: str, value: float, tmp_path: Path) -> None:
    file = written(tmp_path, layout, lambda values: values[name].fill(value))
    layer = name.partition("/")[0] if LAYOUTS[layout][1] is Layout.KERAS_2 else IN_KERAS_3[name].split("/")[1]
    expected = f"has the value {value:g} only in its last layer {layer}, so all images would have the same"
    assert expected in refusal(file)


@each_layout
def test_a_last_layer_beside_a_shortcut_may_be_flat(layout: str, tmp_path: Path) -> None:
    file = written(tmp_path, layout, lambda values: values["Conv_1_bn/Conv_1_bn/gamma:0"].fill(0))
    assert weights_file.check(file, ends_in_convolution=False) is LAYOUTS[layout][1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is neither HDF5 nor a .keras file; it begins with b''"),
        (b"<html>404</html>", "is neither HDF5 nor a .keras file; it begins with b'<html>404</html>'"),
        (b"version https://git-lfs", "it begins with b'version https://'"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "cannot be read: "),
    ],
)
@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "w.keras", "w"])
def test_another_file_is_refused_by_its_first_bytes(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert message.startswith(f"the weights file {tmp_path / name} ")
    assert words in message


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "Keras 2")
    file.write_bytes(file.read_bytes()[:-1000])
    assert "cannot be read: " in refusal(file)


def test_hdf5_and_zip_files_of_others_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as root:
        root["matrix"] = np.ones(3)
    assert "is HDF5 but not by Keras: it has neither 'layer_names' nor 'layers', but matrix" in refusal(
        tmp_path / "other.h5"
    )
    np.savez(tmp_path / "arrays.npz", x=np.ones(3))
    assert "is a zip file without model.weights.h5: no .keras file" in refusal(tmp_path / "arrays.npz")
    with h5py.File(tmp_path / "empty.h5", "w") as root:
        root.create_group("layers")
    assert "holds no weights" in refusal(tmp_path / "empty.h5")


def test_a_folder_and_a_uri_are_refused_as_such(tmp_path: Path) -> None:
    assert "are a folder; give a Keras weights file" in refusal(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "are a folder (a SavedModel); give a Keras weights file (.h5 or .keras)" in refusal(tmp_path)
    for uri in ("s3://bucket/weights.h5", "https://example.org/weights.h5"):
        assert f"the weights {uri} are a URI, which is not read: copy the file" in refusal(uri)


def test_the_answer_does_not_depend_on_the_cache_and_needs_no_tensorflow(tmp_path: Path) -> None:
    def change(values: dict[str, np.ndarray]) -> None:
        values["Conv1/Conv1/kernel:0"].fill(np.nan)

    file = written(tmp_path, "Keras 3", change)
    request = BackboneRequest(weights=str(file))
    cached = tmp_path / "cache" / "models" / request.cache_key()
    cached.mkdir(parents=True)
    with pytest.raises(JobError, match="holds NaN or infinity"):
        export(request, tmp_path / "cache")
    code = f"""
import json, sys
from fruit_pipeline.model.backbones import BackboneRequest
before = "h5py" in sys.modules
try:
    BackboneRequest(weights={str(file)!r}).check_weights_file()
except Exception as error:
    heavy = [name for name in ("tensorflow", "keras") if name in sys.modules]
    print(json.dumps([before, type(error).__name__, heavy]))
"""
    assert json.loads(python(code)) == [False, "JobError", []]
