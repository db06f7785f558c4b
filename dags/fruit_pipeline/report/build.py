"""Builds the report of a run from the objects below the run's prefix."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from fruit_pipeline.report import maps, page, pictures, quality, rejected, rows, views
from fruit_pipeline.report.page import PageContent, Run
from fruit_pipeline.report.rejected import Reject
from fruit_pipeline.report.rows import Rows
from fruit_pipeline.run.summary import from_json
from image_features.contract import (
    PCA_MODEL,
    REPORT,
    SUMMARY,
    FeaturesMarker,
    PcaMarker,
    RunLayout,
    RunSummary,
    SampleMarker,
)
from image_features.documents import find_document, read_document
from image_features.errors import JobError, NotFound
from image_features.images import settings_of
from image_features.pca import PcaModel
from image_features.storage import Storage

log = logging.getLogger(__name__)

SMALL, LARGE = 64, 112
"""Pixels of a picture on the map, and in galleries and tables."""

_SMALL_BYTES, _LARGE_BYTES = 3_000_000, 700_000  # of the image files; base64 adds a third

Opener = Callable[[str], Storage]


@dataclass(frozen=True)
class Report:
    """A report that was written, and its figures."""

    place: str  # its URI or path
    bytes: int
    rows: int  # on which quality was measured
    points: int  # on the map
    pictures: int
    seconds: float


def make(
    layout: RunLayout,
    open_storage: Opener = Storage,
    source: Storage | None = None,
    save: Callable[[bytes], str] | None = None,
) -> Report:
    """Write a run's report into the run's prefix, or pass it to ``save``, which returns its place.

    ``source`` reads the images of a sample that is not packed, see sample_reader.SampleReader. Raises
    JobError when the run has no finished features and PCA, or they do not belong together.
    """
    started = time.monotonic()
    sample_store = _sample_store(layout, open_storage)
    run = _read(layout, open_storage, sample_store)
    rng = np.random.default_rng(run.seed)
    drawn = rows.draw(open_storage(layout.features), run.features, open_storage(layout.pca), run.pca, rng)
    log.info("%d of %d rows drawn, from %d shards", len(drawn), run.pca.images, drawn.shards_read)
    measured = quality.measure(drawn.images, drawn.labels, drawn.features, drawn.embeddings)
    log.info("their neighbours measured")
    points = np.sort(rng.permutation(len(drawn))[: maps.POINTS]).tolist()
    gallery = views.gallery(drawn, measured.neighbours, rng)
    confusions = views.confusions(drawn, measured.neighbours)
    rejects = rejected.read(open_storage(layout.rejects), run.features) if run.features.rejects else []
    images = pictures.Images(sample_store, run.sample, source)
    others = [*views.rows_of(gallery), *views.rows_of(confusions)]
    small, large = _pictures(images, run.features.preprocessing, drawn, points, others, rejects)
    log.info("%d pictures read", len(small) + len(large))
    embeddings = drawn.embeddings[points]
    labels = [drawn.labels[row] for row in points]
    content = PageContent(
        drawn=drawn,
        measured=measured,
        points=points,
        components_map=maps.of_components(embeddings, labels),
        neighbours_map=maps.of_neighbours(embeddings, run.seed),
        gallery=gallery,
        confusions=confusions,
        rejects=rejects,
        small=pictures.sprites(small, SMALL, _SMALL_BYTES),
        large=pictures.sprites(large, LARGE, _LARGE_BYTES),
        missing=images.missing,
    )
    log.info("%d images placed on the maps", len(points))
    body = page.render(run, content).encode()
    return Report(
        place=(save or _saver(open_storage(layout.root)))(body),
        bytes=len(body),
        rows=len(drawn),
        points=len(points),
        pictures=len(small) + len(large),
        seconds=round(time.monotonic() - started, 1),
    )


def _saver(root: Storage) -> Callable[[bytes], str]:
    def save(body: bytes) -> str:
        root.put(
            REPORT, body, content_type="text/html; charset=utf-8"
        )  # without it a browser would download the page
        return root.uri_of(REPORT)

    return save


def _sample_store(layout: RunLayout, open_storage: Opener) -> Storage | None:
    try:
        return open_storage(layout.sample)
    except NotFound:  # a local folder that was deleted
        return None


def _read(layout: RunLayout, open_storage: Opener, sample_store: Storage | None) -> Run:
    pca_store = open_storage(layout.pca)
    pca = read_document(PcaMarker, pca_store)
    features = read_document(FeaturesMarker, open_storage(layout.features))
    if pca.features_digest != features.digest:
        raise JobError(
            f"{layout.pca}: computed from other features than those of {layout.features}; "
            "run the PCA step again"
        )
    return Run(
        layout=layout,
        features=features,
        pca=pca,
        model=PcaModel.from_npz(pca_store.get(PCA_MODEL).to_pybytes(), pca_store.uri_of(PCA_MODEL)),
        sample=find_document(SampleMarker, sample_store) if sample_store else None,
        summary=_summary(open_storage(layout.root)),
    )


def _summary(root: Storage) -> RunSummary | None:
    data = root.get_or_none(SUMMARY)
    return None if data is None else from_json(data.to_pybytes(), root.uri_of(SUMMARY))


def _pictures(
    images: pictures.Images,
    preprocessing: str,
    drawn: Rows,
    points: Sequence[int],
    others: Sequence[int],
    rejects: Sequence[Reject],
) -> tuple[dict[str, Image], dict[str, Image]]:
    """Pictures by the image's name: those of the map; those of galleries and tables, including rejects."""
    small, large = {drawn.images[row] for row in points}, {drawn.images[row] for row in others}
    rejected_names = {reject.image for reject in rejects}
    wanted: dict[int, set[str]] = {}
    for reject in rejects:
        wanted.setdefault(reject.shard, set()).add(reject.image)
    for row in {*points, *others}:
        wanted.setdefault(drawn.shards[row], set()).add(drawn.images[row])
    small_pictures: dict[str, Image] = {}
    large_pictures: dict[str, Image] = {}
    input_size, max_pixels = settings_of(preprocessing)
    for name, content in images.read(wanted):
        if name in rejected_names:
            full = pictures.preview(content, LARGE)
        else:
            full = pictures.picture(content, LARGE, input_size, max_pixels)
        if full is None:
            continue
        if name in small:
            small_pictures[name] = full.resize((SMALL, SMALL), pictures.SHARPEST)
        if name in large or name in rejected_names:
            large_pictures[name] = full
    return small_pictures, large_pictures
