"""An int8 backbone is calibrated and measured on the run's sample, and refused when it is too coarse."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fruit_pipeline.model import quantise as model_quantise
from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
from fruit_pipeline.model.quantise import Quality, measure_quality, quantise
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.drawn_images import draw_folder
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features.contract import MODEL_FILE, MODEL_JSON, SAMPLE_SCHEMA, SampleMarker, shard_key
from image_features.documents import read_document, to_json
from image_features.errors import JobError
from image_features.inference import Backbone
from image_features.sample_reader import SampleReader
from image_features.shards import read_shard
from image_features.storage import Storage

SMALL = BackboneRequest("mobilenet_v2", 0.35, "random:0")

GOOD = Quality(200, 400, 0.9868, 0.9718, 0.7975, 0.795, 0.91, 50, 0.7551, 0.7539)


def sample_of(source: Path, target: Path, **request: Any) -> Storage:
    storage = Storage(target, create=True)
    write_sample(SampleRequest(str(source), **request), Source(str(source)), storage)
    return storage


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty drawn images, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("source")
    draw_folder(folder, per_label=5)
    (folder / "Plum" / "text.jpg").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def sample(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return sample_of(source, tmp_path_factory.mktemp("sample"))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images calibrated with, an entry a conversion; the float32 model replaces TensorFlow's."""
    counts: list[int] = []

    def convert_to_int8(request: BackboneRequest, float32_model: bytes, calibration: Any) -> bytes:
        counts.append(len(calibration))
        return float32_model

    monkeypatch.setattr(model_quantise, "convert_to_int8", convert_to_int8)
    return counts


@pytest.fixture
def cache(random_backbone: Path, tmp_path: Path) -> Path:
    """A cache with the small backbone in float32 only."""
    shutil.copytree(random_backbone, tmp_path / "cache" / "models" / random_backbone.name)
    return tmp_path / "cache"


# Figures


def test_equal_features_have_the_best_figures() -> None:
    features = np.random.default_rng(0).random((60, 8), np.float32)
    labels = [str(n % 3) for n in range(60)]
    quality = measure_quality(features, features, labels, 7)
    assert (quality.images_calibrated, quality.images_compared, quality.components) == (7, 60, 50)
    assert quality.mean_cosine == pytest.approx(1)
    assert quality.neighbour_agreement == 1
    assert quality.neighbour_accuracy == quality.neighbour_accuracy_float32
    assert quality.variance_kept == quality.variance_kept_float32 == pytest.approx(1)


def test_figures_are_those_of_a_case_computed_by_hand() -> None:
    float32 = np.array([[10, 0], [11, 0], [0, 10], [0, 11]], np.float32)
    int8 = np.array([[10, 0], [0, 9], [0, 10], [11, 0]], np.float32)
    quality = measure_quality(float32, int8, ["a", "a", "b", "b"], 1)
    assert (quality.mean_cosine, quality.least_cosine) == (0.5, 0)
    assert (quality.neighbour_accuracy_float32, quality.neighbour_accuracy) == (1, 0)
    assert quality.neighbour_agreement == 0
    assert quality.components == 3


def test_an_image_is_not_its_own_neighbour_and_one_without_a_like_is_wrong() -> None:
    features = np.eye(3, dtype=np.float32)
    assert measure_quality(features, features, ["a", "b", "c"], 1).neighbour_accuracy == 0


def test_features_that_are_all_zero_have_figures() -> None:
    nothing = np.zeros((4, 3), np.float32)
    quality = measure_quality(nothing, nothing, ["a"] * 4, 1)
    assert (quality.mean_cosine, quality.variance_kept) == (0, 1)


# The images


def drawn_of(sample: Storage) -> list[dict[str, Any]]:
    return model_quantise.select_rows(sample, read_document(SampleMarker, sample))


def pixels_of(sample: Storage, rows: list[dict[str, Any]], size: int) -> tuple[Any, list[str]]:
    marker = read_document(SampleMarker, sample)
    return model_quantise.read_pixels(SampleReader(sample, marker), marker, rows, size, 10**7)


def test_the_draw_depends_on_the_seed_and_not_on_the_shards(source: Path, tmp_path: Path) -> None:
    def names(name: str, **request: Any) -> list[str]:
        return [row["image"] for row in drawn_of(sample_of(source, tmp_path / name, **request))]

    first = names("one", seed=3, cores=1)
    assert len(first) == len(set(first)) == 61
    assert first == names("a shard an image", seed=3, cores=16)
    assert first != names("other seed", seed=4, cores=1)


def test_a_large_sample_is_read_in_part(sample: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [shard.bytes for shard in read_document(SampleMarker, sample).shards]
    monkeypatch.setattr(model_quantise, "_BYTES", min(sizes) + 1)
    rows = drawn_of(sample)
    assert 1 <= len({row["shard"] for row in rows}) <= 2 < len(sizes)
    assert len(pixels_of(sample, rows, 224)[0]) >= len(rows) - 1


def test_images_that_do_not_decode_are_left_out_and_labels_stay_with_theirs(sample: Storage) -> None:
    rows = drawn_of(sample)
    pixels, labels = pixels_of(sample, rows, 96)
    assert pixels.shape == (60, 96, 96, 3)
    assert labels == [row["label"] for row in rows if row["image"] != "Plum/text.jpg"]


# Quantising


@pytest.mark.usefixtures("conversions")
def test_the_spec_says_precision_and_quality(sample: Storage, cache: Path) -> None:
    spec, stored = quantise(SMALL, sample, cache)
    exact, _ = export(SMALL, cache)
    assert (spec.precision, exact.precision, exact.quality) == ("int8", "float32", {})
    quality = Quality(**spec.quality)  # type: ignore[arg-type]
    assert (quality.images_calibrated, quality.images_compared, quality.components) == (30, 30, 29)
    assert quality.mean_cosine == pytest.approx(1)
    assert replace(spec, precision="float32", quality={}) == exact
    assert json.loads(stored.get(MODEL_JSON).to_pybytes()) == json.loads(to_json(spec))


def test_the_same_images_are_quantised_once_and_others_again(
    source: Path, sample: Storage, cache: Path, tmp_path: Path, conversions: list[int]
) -> None:
    first, _ = quantise(SMALL, sample, cache)
    assert quantise(SMALL, sample, cache)[0] == first
    assert quantise(SMALL, sample_of(source, tmp_path / "same", cores=4), cache)[0] == first
    assert len(conversions) == 1
    quantise(SMALL, sample_of(source, tmp_path / "fewer", total=55), cache)
    quantise(SMALL, sample, cache, max_pixels=10**6)
    assert len(conversions) == 3


def test_another_scheme_quantises_again(
    sample: Storage, cache: Path, conversions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    quantise(SMALL, sample, cache)
    monkeypatch.setattr(model_quantise, "SCHEME", "next")
    quantise(SMALL, sample, cache)
    assert len(conversions) == 2


def test_a_cached_model_is_compared_with_the_limit_of_each_run(
    sample: Storage, cache: Path, conversions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_quantise, "measure_quality", lambda *_, **__: GOOD)
    quantise(SMALL, sample, cache, min_cosine=0.98)
    with pytest.raises(JobError, match=r"mean cosine is below 0\.99") as caught:
        quantise(SMALL, sample, cache, min_cosine=0.99)
    for figure in ("0.9868", "0.9718", "79.50%", "79.75%", "91.00%", "75.39%", "75.51%", "400 images"):
        assert figure in str(caught.value)
    assert len(conversions) == 1


@pytest.mark.usefixtures("conversions")
def test_too_few_images_that_decode_are_refused_with_both_counts(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    few = sample_of(source, tmp_path / "few", labels=("Plum", "Kiwi", "Lemon"))
    with pytest.raises(JobError, match=r"needs 50 that decode; of 16 drawn 15 do\. Draw more images"):
        quantise(SMALL, few, cache)


def test_the_operators_that_stay_float32_end_with_the_first_projection(random_backbone: Path) -> None:
    """They are taken by their place in the graph, which another TensorFlow could order anew."""
    names = model_quantise.first_output_names((random_backbone / MODEL_FILE).read_bytes(), 3)
    for name, layer in zip(names, ("Conv1", "expanded_conv_depthwise", "expanded_conv_project"), strict=True):
        assert layer in name


# With TensorFlow's converter


@pytest.fixture(scope="module")
def shared_cache() -> Path:
    return Path(os.environ["FRUITS_CACHE_DIR"])


@pytest.mark.e2e
def test_random_weights_are_quantised_measured_and_refused_below_the_limit(
    sample: Storage, shared_cache: Path
) -> None:
    spec, stored = quantise(SMALL, sample, shared_cache, min_cosine=0)
    assert set(spec.quality) == set(asdict(GOOD))
    # int8 has no steps as small as what random weights leave of a signal.
    assert 0 <= spec.quality["mean_cosine"] < 0.9999
    model = stored.get(MODEL_FILE).to_pybytes()
    exact = export(SMALL, shared_cache)[1].get(MODEL_FILE).to_pybytes()
    assert len(model) < len(exact) / 2
    contents = read_shard(sample, shard_key(0), SAMPLE_SCHEMA).column("content").to_pylist()[:3]
    features, _ = Backbone(model, spec).features(contents)
    assert features.shape == (3, 1280)
    assert features.dtype == np.float32
    with pytest.raises(JobError, match=rf"below 0\.9999 .*{spec.quality['mean_cosine']:.4f} on average"):
        quantise(SMALL, sample, shared_cache, min_cosine=0.9999)


@pytest.mark.e2e
def test_real_weights_and_photos_keep_their_neighbours(
    shared_data: Path, shared_cache: Path, tmp_path: Path
) -> None:
    weights = next((shared_data / "weights").glob("*_1.00_*.h5"))
    photos = sample_of(shared_data / "fruits", tmp_path / "sample", total=600)
    spec, _ = quantise(BackboneRequest(weights=str(weights)), photos, shared_cache)
    quality = Quality(**spec.quality)  # type: ignore[arg-type]
    assert (quality.images_calibrated, quality.images_compared) == (200, 400)
    assert quality.mean_cosine > 0.98
    assert quality.least_cosine > 0.95
    assert quality.neighbour_accuracy > quality.neighbour_accuracy_float32 - 0.015
    assert quality.variance_kept == pytest.approx(quality.variance_kept_float32, abs=0.005)
