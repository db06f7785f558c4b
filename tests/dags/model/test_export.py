"""The exported backbone is Keras' own, to a tolerance; wrong weights are refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import KERAS_TOLERANCE, check_against_keras, export, load, publish
from fruit_pipeline.sample.drawn_images import KINDS, draw_image
from image_features.contract import MODEL_FILE, MODEL_JSON, BackboneSpec
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.images import decode_rgb
from image_features.inference import Backbone, read_backbone
from image_features.storage import Storage
from support.processes import python


@pytest.fixture(scope="module")
def keras() -> Any:
    """Keras, which takes some seconds to import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    return keras


@pytest.fixture
def spec(random_backbone: Path) -> BackboneSpec:
    return read_document(BackboneSpec, Storage(random_backbone), MODEL_JSON)


# Requests


@pytest.mark.parametrize(
    ("backbone", "alpha", "weights", "message"),
    [
        ("vgg16", 1.0, "imagenet", "unknown backbone 'vgg16'; expected one of mobilenet_v2, resnet50"),
        ("mobilenet_v2", 0.0, "random:0", "alpha must be above 0"),
        ("mobilenet_v2", -1.0, "random:0", "alpha must be above 0"),
        ("mobilenet_v2", 2.5, "random:0", "at most 2, not 2.5"),
        ("mobilenet_v2", float("nan"), "random:0", "alpha must be above 0"),
        ("mobilenet_v2", 0.4, "imagenet", "no ImageNet weights for alpha 0.4; there are 0.35, 0.5"),
        ("resnet50", 0.5, "imagenet", "resnet50 has no width multiplier: alpha must be 1.0"),
        ("mobilenet_v2", 1.0, "random:", "'random:': expected random:<whole number>"),
        ("mobilenet_v2", 1.0, "random:x", "expected random:<whole number>"),
        ("mobilenet_v2", 1.0, "random:-1", "expected random:<whole number>"),
    ],
)
def test_a_request_at_fault_is_refused_by_its_value(
    backbone: str, alpha: float, weights: str, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        BackboneRequest(backbone, alpha, weights)


@pytest.mark.parametrize(
    ("backbone", "alpha", "weights", "size", "message"),
    [
        ("mobilenet_v2", 1.0, "random:0", 223, "no input size 223; there are 96, 128, 160, 192, 224"),
        ("mobilenet_v2", 1.0, "random:0", 0, "no input size 0; there are 96"),
        ("resnet50", 1.0, "imagenet", 160, "resnet50 has no input size 160; there are 224"),
        ("mobilenet_v2", 1.4, "imagenet", 192, "weights for alpha 1.4 with input size 224 only, not 192"),
    ],
)
def test_an_input_size_that_cannot_be_is_refused_with_those_that_can(
    backbone: str, alpha: float, weights: str, size: int, message: str
) -> None:
    with pytest.raises(JobError, match=message):
        BackboneRequest(backbone, alpha, weights, size)


def test_a_missing_weights_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    request = BackboneRequest(weights=str(tmp_path / "none.h5"))
    with pytest.raises(JobError, match=r"none\.h5 does not exist; expected imagenet, random:<seed>"):
        export(request, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_all_that_decides_the_model_is_in_its_cache_key(tmp_path: Path) -> None:
    file = tmp_path / "w.h5"
    file.write_bytes(b"one")
    keys = [
        BackboneRequest().cache_key(),
        BackboneRequest(alpha=0.5).cache_key(),
        BackboneRequest("resnet50").cache_key(),
        BackboneRequest(weights="random:0").cache_key(),
        BackboneRequest(weights="random:1").cache_key(),
        BackboneRequest(weights=str(file)).cache_key(),
        BackboneRequest(input_size=160).cache_key(),
    ]
    file.write_bytes(b"two")
    keys.append(BackboneRequest(weights=str(file)).cache_key())
    assert len(set(keys)) == len(keys)
    (tmp_path / "moved.h5").write_bytes(b"two")
    assert BackboneRequest(weights=str(tmp_path / "moved.h5")).cache_key() == keys[-1]


# The cache


def test_a_cached_backbone_is_taken_without_tensorflow(random_backbone: Path) -> None:
    cache = random_backbone.parents[1]
    code = f"""
import json, sys
from pathlib import Path
from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
spec, _ = export(BackboneRequest("mobilenet_v2", 0.35, "random:0"), Path({str(cache)!r}))
print(json.dumps([spec.digest, [name for name in ("tensorflow", "keras") if name in sys.modules]]))
"""
    digest, heavy = json.loads(python(code))
    assert digest == hashlib.sha256((random_backbone / MODEL_FILE).read_bytes()).hexdigest()
    assert heavy == []


@pytest.mark.parametrize("name", [MODEL_FILE, MODEL_JSON])
@pytest.mark.parametrize("damage", ["empty", "flipped", "lost"])
def test_a_damaged_folder_of_the_cache_is_exported_again(
    name: str, damage: str, random_backbone: Path, spec: BackboneSpec, tmp_path: Path, monkeypatch: Any
) -> None:
    folder = tmp_path / "models" / random_backbone.name
    shutil.copytree(random_backbone, folder)
    whole = (folder / name).read_bytes()
    if damage == "lost":
        (folder / name).unlink()
    else:
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        (folder / name).write_bytes(flipped if damage == "flipped" else b"")
    exports = []

    def export_once(request: BackboneRequest) -> tuple[BackboneSpec, bytes]:
        exports.append(request)
        return spec, (random_backbone / MODEL_FILE).read_bytes()

    monkeypatch.setattr("fruit_pipeline.model.export._export", export_once)
    request = BackboneRequest("mobilenet_v2", 0.35, "random:0")
    for _ in range(2):
        exported, cached = export(request, tmp_path)
        assert read_backbone(cached.uri) == (exported, (folder / MODEL_FILE).read_bytes())
    assert exports == [request]
    assert (folder / name).read_bytes() == whole


def test_publishing_twice_writes_once(random_backbone: Path, spec: BackboneSpec, tmp_path: Path) -> None:
    cached, target = Storage(random_backbone), Storage(tmp_path, create=True)
    uri = publish(spec, cached, target)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert publish(spec, cached, target) == uri == f"file://{tmp_path}/{spec.digest}"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == written
    assert read_backbone(uri) == (spec, (random_backbone / MODEL_FILE).read_bytes())


def test_publishing_completes_an_interrupted_upload(
    random_backbone: Path, spec: BackboneSpec, tmp_path: Path
) -> None:
    cached, target = Storage(random_backbone), Storage(tmp_path, create=True)
    target.put(f"{spec.digest}/{MODEL_FILE}", b"half of it")
    assert read_backbone(publish(spec, cached, target))[0] == spec


def test_publishing_repairs_a_damaged_model(
    random_backbone: Path, spec: BackboneSpec, tmp_path: Path
) -> None:
    cached, target = Storage(random_backbone), Storage(tmp_path, create=True)
    publish(spec, cached, target)
    target.put(f"{spec.digest}/{MODEL_FILE}", b"damaged")
    assert read_backbone(publish(spec, cached, target))[0] == spec


def test_publishing_replaces_what_an_older_version_left(
    random_backbone: Path, spec: BackboneSpec, tmp_path: Path
) -> None:
    cached, target = Storage(random_backbone), Storage(tmp_path, create=True)
    older = asdict(spec) | {"schema_version": 1}
    target.put(f"{spec.digest}/{MODEL_JSON}", json.dumps(older).encode())
    assert read_backbone(publish(spec, cached, target))[0] == spec


# The model


def test_the_spec_says_what_was_exported(spec: BackboneSpec) -> None:
    assert (spec.backbone, spec.alpha, spec.weights) == ("mobilenet_v2", 0.35, "random:0")
    assert (spec.width, spec.input_size, spec.preprocessing) == (1280, 224, "tf")
    assert 0 <= spec.keras_agreement <= KERAS_TOLERANCE
    assert set(spec.exported_with) == {"keras", "tensorflow", "litert"}


def test_litert_agrees_with_keras(keras: Any, random_backbone: Path, spec: BackboneSpec) -> None:
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        input_shape=(224, 224, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    contents = [draw_image(kind, 7) for kind in KINDS]
    pixels = np.stack([decode_rgb(content, 224) for content in contents]).astype(np.float32)
    expected = model.predict(keras.applications.mobilenet_v2.preprocess_input(pixels), verbose=0)
    features, rejected = Backbone((random_backbone / MODEL_FILE).read_bytes(), spec).features(contents)
    assert rejected == {}
    assert features.shape == expected.shape == (12, 1280)
    differences = np.linalg.norm(features - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert differences.max() < KERAS_TOLERANCE


def test_weights_of_another_network_are_refused_by_name(
    keras: Any, shared_data: Path, tmp_path: Path
) -> None:
    narrow = next((shared_data / "weights").glob("*_0.35_*.h5"))
    request = BackboneRequest("mobilenet_v2", 1.0, str(narrow))
    with pytest.raises(JobError, match=rf"{narrow.name} does not fit mobilenet_v2 with alpha 1\.0"):
        export(request, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.fixture(scope="module")
def trained(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network's weights in each layout of Keras, by the layout's name."""
    from keras.src.legacy.saving import legacy_h5_format

    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    model.save_weights(folder / "three.weights.h5")
    model.save(folder / "whole.keras")
    model.save(folder / "whole.h5")
    with h5py.File(folder / "two.h5", "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize("layout", ["three.weights.h5", "two.h5", "whole.h5", "whole.keras"])
@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "w.keras", "weights.best"])
def test_weights_are_read_by_what_the_file_is_whatever_its_name(
    keras: Any, trained: dict[str, Path], layout: str, name: str, tmp_path: Path
) -> None:
    file = shutil.copy(trained[layout], tmp_path / name)
    loaded = load(BackboneRequest("mobilenet_v2", 0.35, str(file), 96))
    keras.utils.set_random_seed(0)
    expected = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    for weight, other in zip(loaded.get_weights(), expected.get_weights(), strict=True):
        assert np.array_equal(weight, other)


def test_features_that_say_nothing_of_the_images_are_refused(keras: Any, random_backbone: Path) -> None:
    """Weights can be dead in ways that the file does not show, such as a bias that no activation passes."""
    model = keras.applications.MobileNetV2(
        input_shape=(96, 96, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    exported = (random_backbone / MODEL_FILE).read_bytes()
    request = BackboneRequest("mobilenet_v2", 0.35, "random:0", 96)
    last = model.get_layer("Conv_1_bn")
    gamma, beta, mean, variance = last.get_weights()
    last.set_weights([gamma, beta - 1e6, mean, variance])
    with pytest.raises(JobError, match="the weights random:0 give different images the same features"):
        check_against_keras(model, request, exported)
    last.set_weights([gamma, beta, mean, variance - 2])
    with pytest.raises(JobError, match="the weights random:0 give NaN or infinity for a drawn image"):
        check_against_keras(model, request, exported)


def test_imagenet_weights_that_cannot_be_downloaded_say_what_to_do(
    keras: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from keras.src.utils import file_utils

    def no_network(name: str, origin: str, **options: Any) -> str:
        # What get_file raises for a URLError; the download itself must not be tried in a test.
        raise Exception(f"URL fetch failure on {origin}: None -- [Errno -2] Name or service not known")

    monkeypatch.setattr(file_utils, "get_file", no_network)
    with pytest.raises(
        JobError,
        match=r"ImageNet weights of mobilenet_v2 cannot be downloaded \(URL fetch .*give a weights file",
    ):
        export(BackboneRequest(), tmp_path)


def test_a_model_that_does_not_compute_what_keras_does_is_refused(keras: Any, random_backbone: Path) -> None:
    keras.utils.set_random_seed(1)  # the exported one has seed 0
    other = keras.applications.MobileNetV2(
        input_shape=(224, 224, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    exported = (random_backbone / MODEL_FILE).read_bytes()
    with pytest.raises(
        JobError, match=r"LiteRT and Keras differ by \d\.\de[+-]\d+ relative, allowed is 1e-04"
    ):
        check_against_keras(other, BackboneRequest("mobilenet_v2", 0.35, "random:1"), exported)


def test_a_smaller_input_gives_features_of_the_same_width() -> None:
    request = BackboneRequest("mobilenet_v2", 0.35, "random:0", 96)
    spec, cached = export(request, Path(os.environ["FRUITS_CACHE_DIR"]))
    assert (spec.input_size, spec.width) == (96, 1280)
    assert spec.keras_agreement <= KERAS_TOLERANCE
    features, _ = Backbone(cached.get(MODEL_FILE).to_pybytes(), spec).features([draw_image(KINDS[0], 0)])
    assert features.shape == (1, 1280)


@pytest.mark.e2e
def test_real_weights_are_exported_as_keras_has_them(keras: Any, shared_data: Path, tmp_path: Path) -> None:
    weights = next((shared_data / "weights").glob("*_1.00_*.h5"))
    copy = shutil.copy(weights, tmp_path / "mine.h5")
    spec, _ = export(BackboneRequest(weights=str(copy)), tmp_path / "cache")
    assert (spec.width, spec.weights) == (1280, "mine.h5")
    assert spec.keras_agreement <= KERAS_TOLERANCE
