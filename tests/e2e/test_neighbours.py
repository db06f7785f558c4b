"""Do the features mean anything? Unseen images must find their own label among a few references."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from fruit_pipeline.model.backbones import BackboneRequest
from fruit_pipeline.model.export import export
from fruit_pipeline.sample.draw import select_images
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source, SourceImage, group_by_label
from image_features import pca
from image_features.contract import MODEL_FILE
from image_features.inference import Backbone

REFERENCES, QUERIES = 4, 2


def features_of(
    images: list[SourceImage], source: Source, request: BackboneRequest
) -> npt.NDArray[np.float32]:
    spec, stored = export(request, Path(os.environ["FRUITS_CACHE_DIR"]))
    features, rejected = Backbone(stored.get(MODEL_FILE).to_pybytes(), spec).features(
        [source.read(image) for image in images]
    )
    assert not rejected
    return features


def share_of_own_label(
    references: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], labels: list[str]
) -> float:
    """Share of queries whose nearest reference (Euclidean) has their label."""
    distances = ((queries[:, None, :] - references[None, :, :]) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1) // REFERENCES
    return float(np.mean(nearest == np.repeat(np.arange(len(labels)), QUERIES)))


@pytest.fixture(scope="module")
def split(shared_data: Path) -> tuple[Source, list[str], list[SourceImage], list[SourceImage]]:
    """131 labels with four references and two unseen queries each."""
    source = Source(str(shared_data / "fruits"))
    request = SampleRequest(str(shared_data), per_label=REFERENCES + QUERIES, seed=1)
    groups = group_by_label(select_images(source.list().images, request))
    references = [image for group in groups.values() for image in group[:REFERENCES]]
    queries = [image for group in groups.values() for image in group[REFERENCES:]]
    return source, list(groups), references, queries


def test_unseen_images_find_their_label_far_more_often_than_with_random_weights(
    split: tuple[Source, list[str], list[SourceImage], list[SourceImage]], shared_data: Path
):
    source, labels, references, queries = split
    assert len(queries) == 2 * 131
    weights = shared_data / "weights" / "mobilenetv2_1.00_224_imagenet_no_top_rebuilt.h5"
    shares = {}
    for name, text in (("imagenet", str(weights)), ("random", "random:0")):
        request = BackboneRequest("mobilenet_v2", 1.0, text)
        both = features_of([*references, *queries], source, request)
        shares[name] = share_of_own_label(both[: len(references)], both[len(references) :], labels)
        if name == "imagenet":
            model = pca.fit(pca.Moments.of(both), components=50)
            reduced = model.transform(both)
            shares["embeddings"] = share_of_own_label(
                reduced[: len(references)], reduced[len(references) :], labels
            )
    print(shares)
    assert shares["imagenet"] > 0.75
    assert shares["embeddings"] > 0.70
    assert shares["imagenet"] - shares["random"] > 0.15
