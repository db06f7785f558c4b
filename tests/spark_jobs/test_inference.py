"""The backbone: order, batches, neighbours, and a model file that is not what its JSON says."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from image_features.contract import RejectReason
from image_features.errors import JobError
from image_features.inference import Backbone, open_once, read_backbone

BATCH = 8  # of the exported model; the first test states it


@pytest.fixture(scope="module")
def backbone(random_backbone: Path) -> Backbone:
    spec, model = read_backbone(str(random_backbone))
    return Backbone(model, spec)


@pytest.fixture(scope="module")
def alone(backbone: Backbone, drawn: list[bytes]) -> np.ndarray:
    """The features of each image, computed one by one."""
    return np.concatenate([backbone.features([content])[0] for content in drawn[: 2 * BATCH + 1]])


def test_features_are_float32_of_the_width_that_the_model_states(
    backbone: Backbone, alone: np.ndarray
) -> None:
    assert backbone.spec.batch == BATCH
    assert (alone.shape, alone.dtype) == ((2 * BATCH + 1, backbone.spec.width), np.float32)
    assert np.isfinite(alone).all()
    assert len(np.unique(alone, axis=0)) == len(alone)


@pytest.mark.parametrize("count", [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 2 * BATCH + 1])
def test_any_number_of_images_gives_each_its_own_features_in_order(
    count: int, backbone: Backbone, drawn: list[bytes], alone: np.ndarray
) -> None:
    features, rejected = backbone.features(drawn[:count])
    assert rejected == {}
    assert features.shape == (count, backbone.spec.width)
    assert np.array_equal(features, alone[:count])


def test_neighbours_in_the_batch_and_its_place_in_it_change_no_feature(
    backbone: Backbone, drawn: list[bytes], alone: np.ndarray
) -> None:
    order = np.random.default_rng(3).permutation(2 * BATCH + 1)
    features, _ = backbone.features([drawn[n] for n in order])
    assert np.array_equal(features, alone[order])


@pytest.mark.parametrize(
    "broken",
    [
        {0},
        {BATCH - 1},
        {BATCH},
        {2 * BATCH},
        set(range(BATCH)),
        {0, BATCH - 1, BATCH, 2 * BATCH},
        set(range(2 * BATCH + 1)),
    ],
)
def test_rejected_images_at_any_position_leave_the_others_in_order(
    broken: set[int], backbone: Backbone, drawn: list[bytes], alone: np.ndarray
) -> None:
    contents = [b"" if n in broken else drawn[n] for n in range(2 * BATCH + 1)]
    features, rejected = backbone.features(contents)
    assert set(rejected) == broken
    assert {reject.reason for reject in rejected.values()} == {RejectReason.EMPTY}
    kept = [n for n in range(2 * BATCH + 1) if n not in broken]
    assert np.array_equal(features, alone[kept])


def test_the_pixel_limit_reaches_the_decoder(backbone: Backbone, drawn: list[bytes]) -> None:
    features, rejected = backbone.features(drawn[:1], max_pixels=100 * 100 - 1)
    assert features.shape == (0, backbone.spec.width)
    assert rejected[0].reason is RejectReason.TOO_MANY_PIXELS


def test_features_of_an_earlier_call_do_not_change(backbone: Backbone, drawn: list[bytes]) -> None:
    first, _ = backbone.features(drawn[:3])
    kept = first.copy()
    backbone.features(drawn[3:6])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("damage", ["one byte", "cut", "empty"])
def test_a_model_with_another_digest_is_refused_and_the_file_named(
    damage: str, random_backbone: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(random_backbone, tmp_path / "model")
    file = folder / "backbone.tflite"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes({"one byte": content, "cut": content[:5000], "empty": b""}[damage])
    with pytest.raises(JobError, match="SHA-256") as caught:
        read_backbone(str(folder))
    assert f"file://{file}" in str(caught.value)


@pytest.mark.parametrize("missing", ["backbone.tflite", "model.json"])
def test_a_missing_model_file_is_named(missing: str, random_backbone: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(random_backbone, tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(JobError, match="does not exist") as caught:
        read_backbone(str(folder))
    assert f"file://{folder}/{missing}" in str(caught.value)


def test_a_worker_opens_a_model_once_and_another_one_anew(random_backbone: Path) -> None:
    spec, model = read_backbone(str(random_backbone))
    first = open_once(model, spec)
    assert open_once(model, spec) is first
    as_caffe = dataclasses.replace(spec, preprocessing="caffe")
    assert open_once(model, as_caffe).spec == as_caffe
