"""embed.tflite: one file that computes the same numbers as the backbone and the PCA in turn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
from image_features import embedder, pca
from image_features.contract import MODEL_FILE, BackboneSpec, PcaMarker
from image_features.embedder import Embedder, fuse, open_embedder
from image_features.errors import JobError
from image_features.images import Preprocessor, decode_rgb
from image_features.inference import Backbone, read_backbone
from image_features.pca import PcaModel
from image_features.storage import Storage

SIZE, WIDTH = 12, 12 * 12 * 3


def tiny_backbone(offset: float = 0.0, batch: int = 1, kind: int = schema.TensorType.FLOAT32) -> bytes:
    """A backbone whose features are its input's values, each plus ``offset``."""
    model = schema.ModelT(version=3, operatorCodes=[], buffers=[schema.BufferT()])
    model.subgraphs = [schema.SubGraphT(tensors=[], operators=[])]
    graph = embedder._Graph(model)
    image = graph.tensor("x", (batch, SIZE, SIZE, 3), kind)
    shape = graph.constant("shape", np.array([batch, WIDTH], np.int32), schema.TensorType.INT32)
    flat, out = (graph.tensor(name, (batch, WIDTH), kind) for name in ("flat", "y"))
    graph.operate("RESHAPE", [image, shape], flat, schema.ReshapeOptionsT([batch, WIDTH]))
    graph.operate("ADD", [flat, graph.constant("offset", np.array([offset], np.float32))], out)
    graph.subgraph.inputs, graph.subgraph.outputs = [image], [out]
    return embedder._pack(model, 0)


def tiny_spec(preprocessing: str = "tf", **changes: Any) -> BackboneSpec:
    spec = BackboneSpec("tiny", 1.0, "random:0", SIZE, WIDTH, preprocessing, 1, "", 0.0)
    return dataclasses.replace(spec, **changes)


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, SIZE, SIZE, 3), np.uint8)


def tiny_features(images: np.ndarray, preprocessing: str = "tf", offset: float = 0.0) -> np.ndarray:
    out = np.empty(images.shape, np.float32)
    for image, row in zip(images, out, strict=True):
        Preprocessor(preprocessing).fill(image, row)
    return out.reshape(len(images), -1) + np.float32(offset)


def fitted(features: np.ndarray, components: int = 10) -> PcaModel:
    return pca.fit(pca.Moments.of(features), components)


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference against the largest value: random weights give features of about 1e-10."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def agreement(model: bytes, spec: BackboneSpec, contents: list[bytes], components: int = 10) -> float:
    features, rejected = Backbone(model, spec).features(contents)
    assert not rejected
    projection = fitted(features, components)
    opened = Embedder(fuse(model, spec, projection), "u")
    found = np.stack([opened.embed(decode_rgb(content, opened.size)) for content in contents])
    return relative(found, projection.transform(features))


@pytest.mark.parametrize("preprocessing", ["tf", "caffe"])
def test_its_result_equals_that_of_backbone_and_pca_in_turn(
    preprocessing: str, random_backbone: Path, drawn: list[bytes]
) -> None:
    spec, model = read_backbone(str(random_backbone))
    spec = dataclasses.replace(spec, preprocessing=preprocessing)
    assert agreement(model, spec, drawn[:24]) < 1e-5


@pytest.mark.parametrize("preprocessing", ["tf", "caffe"])
def test_every_channel_is_preprocessed_as_its_own(preprocessing: str, noise: np.ndarray) -> None:
    """A PCA that keeps single features shows the result of the preprocessing, value by value."""
    features = tiny_features(noise[:1], preprocessing)[0]
    selected = PcaModel(np.zeros(WIDTH), np.eye(WIDTH), np.ones(WIDTH), np.ones(WIDTH))
    opened = Embedder(fuse(tiny_backbone(), tiny_spec(preprocessing), selected), "u")
    assert np.array_equal(opened.embed(noise[0]), features)


@pytest.mark.parametrize("offset", [0.0, 100.0, 10_000.0])
def test_a_mean_that_is_large_against_the_spread_costs_no_accuracy(offset: float, noise: np.ndarray) -> None:
    features = tiny_features(noise, offset=offset)
    projection = fitted(features)
    opened = Embedder(fuse(tiny_backbone(offset), tiny_spec(), projection), "u")
    found = np.stack([opened.embed(image) for image in noise])
    assert relative(found, projection.transform(features)) < 5e-6


@pytest.fixture(scope="module")
def fused(random_backbone: Path, drawn: list[bytes]) -> bytes:
    spec, model = read_backbone(str(random_backbone))
    return fuse(model, spec, fitted(Backbone(model, spec).features(drawn[:16])[0], 7))


def test_the_input_is_one_uint8_image_and_the_output_one_float32_embedding(fused: bytes) -> None:
    opened = Interpreter(model_content=fused)
    [image], [embedding] = opened.get_input_details(), opened.get_output_details()
    assert (image["name"], image["dtype"], list(image["shape"])) == ("image", np.uint8, [1, 224, 224, 3])
    assert (embedding["name"], embedding["dtype"], list(embedding["shape"])) == (
        *("embedding", np.float32),
        [1, 7],
    )
    assert list(image["shape_signature"]) == [1, 224, 224, 3]


def test_the_signature_runner_knows_the_names(fused: bytes, drawn: list[bytes]) -> None:
    rgb = decode_rgb(drawn[0], 224)
    runner = Interpreter(model_content=fused).get_signature_runner()
    found = runner(image=rgb[None])
    assert found.keys() == {"embedding"}
    expected = Embedder(fused, "u").embed(rgb)
    assert relative(found["embedding"][0], expected) < 1e-5


def test_constants_are_aligned_to_16_bytes_as_the_format_demands(fused: bytes) -> None:
    start = np.frombuffer(fused, np.uint8).__array_interface__["data"][0]
    buffers = schema.ModelT.InitFromObj(schema.Model.GetRootAs(fused)).buffers
    places = [b.data.__array_interface__["data"][0] - start for b in buffers if b.data is not None]
    assert len(places) > 50
    assert all(place % 16 == 0 for place in places)


def test_the_same_inputs_give_the_same_bytes(fused: bytes, random_backbone: Path, drawn: list[bytes]) -> None:
    spec, model = read_backbone(str(random_backbone))
    assert fuse(model, spec, fitted(Backbone(model, spec).features(drawn[:16])[0], 7)) == fused


def test_embeddings_of_earlier_calls_do_not_change(fused: bytes, drawn: list[bytes]) -> None:
    opened = Embedder(fused, "u")
    first = opened.embed(decode_rgb(drawn[0], opened.size))
    kept = first.copy()
    opened.embed(decode_rgb(drawn[1], opened.size))
    assert np.array_equal(first, kept)


def refusal(model: bytes, spec: BackboneSpec, width: int = WIDTH) -> str:
    model_of_width = PcaModel(np.zeros(width), np.eye(3, width), np.ones(3), np.ones(3))
    with pytest.raises(JobError) as caught:
        fuse(model, spec, model_of_width)
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "spec", "width", "message"),
    [
        (tiny_backbone(), tiny_spec(), 7, "the PCA is of 7 features, the backbone gives 432"),
        (tiny_backbone(), tiny_spec(width=7), 7, "gives float32 (1, 432), expected float32 (1, 7)"),
        (tiny_backbone(), tiny_spec(input_size=224), WIDTH, "takes float32 (1, 12, 12, 3), expected float32"),
        (tiny_backbone(batch=8), tiny_spec(), WIDTH, "takes float32 (8, 12, 12, 3), expected float32 (1,"),
        (tiny_backbone(kind=schema.TensorType.INT8), tiny_spec(), WIDTH, "takes another type (1, 12, 12, 3)"),
        (tiny_backbone(), tiny_spec("torch"), WIDTH, "unknown preprocessing 'torch'"),
        (b"", tiny_spec(), WIDTH, "is not a LiteRT file"),
        (b"PK" * 100, tiny_spec(), WIDTH, "is not a LiteRT file"),
        (tiny_backbone()[:40], tiny_spec(), WIDTH, "LiteRT file is damaged"),
    ],
)
def test_a_model_that_does_not_match_its_description_is_refused(
    model: bytes, spec: BackboneSpec, width: int, message: str
) -> None:
    assert message in refusal(model, spec, width)


@pytest.mark.parametrize("ends", ["inputs", "outputs"])
@pytest.mark.parametrize("count", [0, 2])
def test_another_number_of_inputs_or_outputs_is_refused(ends: str, count: int) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(tiny_backbone()))
    setattr(model.subgraphs[0], ends, [0, 1][:count])
    assert f"the backbone has {count} {ends}, expected one" in refusal(embedder._pack(model, 0), tiny_spec())


def test_a_file_that_takes_something_else_than_an_image_is_no_embedder() -> None:
    with pytest.raises(JobError, match=r"^s3://b/e takes float32 \(1, 12, 12, 3\), expected uint8"):
        Embedder(tiny_backbone(), "s3://b/e")


def test_only_the_file_that_the_marker_lists_is_opened(fused: bytes, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.put("embed.tflite", fused)
    marker = PcaMarker(1, 1280, 7, 0.9, "", "components=7", [], 1.0)
    with pytest.raises(JobError, match=r"has no embed\.tflite: run the PCA step again, with --model"):
        open_embedder(storage, marker)
    with pytest.raises(JobError, match=r"has SHA-256 \w+, the marker says 00;"):
        open_embedder(storage, dataclasses.replace(marker, embedder_digest="00"))


@pytest.mark.e2e
def test_resnet50_agrees(tmp_path: Path, drawn: list[bytes]) -> None:
    spec, stored = export(BackboneRequest("resnet50", 1.0, "random:0"), tmp_path)
    assert (spec.preprocessing, spec.width) == ("caffe", 2048)
    assert agreement(stored.get(MODEL_FILE).to_pybytes(), spec, drawn[:16]) < 1e-4


@pytest.mark.e2e
@pytest.mark.parametrize("alpha", ["0.35", "1.00"])
def test_real_weights_agree_within_a_thousandth(alpha: str, tmp_path: Path, shared_data: Path) -> None:
    weights = next((shared_data / "weights").glob(f"*_{alpha}_*.h5"))
    spec, stored = export(BackboneRequest("mobilenet_v2", float(alpha), str(weights)), tmp_path)
    images = sorted((shared_data / "fruits").glob("*/*.jpg"))[::60]
    model, contents = stored.get(MODEL_FILE).to_pybytes(), [path.read_bytes() for path in images]
    features, _ = Backbone(model, spec).features(contents)
    projection = fitted(features, 50)
    opened = Embedder(fuse(model, spec, projection), "u")
    found = np.stack([opened.embed(decode_rgb(content, opened.size)) for content in contents])
    expected = projection.transform(features)
    print(f"alpha {alpha}: {np.abs(found - expected).max():.1e} of {np.abs(expected).max():.1f}")
    assert np.abs(expected).max() > 1
    assert np.abs(found - expected).max() < 1e-3
