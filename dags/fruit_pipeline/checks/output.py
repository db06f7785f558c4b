"""Checks a finished run's output against its manifest: no image lost, none twice, all values plausible.

The error of a failed check is one line; it lists the first ten failures with their objects.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from fruit_pipeline.sample.manifest import COLUMNS, Identity, Manifest, RowsDigest, identities_of
from image_features.contract import (
    EMBEDDER,
    EMBEDDINGS_SCHEMA,
    LEFT_OUT,
    LEFT_OUT_SCHEMA,
    MANIFEST,
    MARKER,
    PCA_MODEL,
    REJECTS_SCHEMA,
    REUSED,
    REUSED_SCHEMA,
    SUMMARY,
    FeaturesMarker,
    FeaturesShard,
    PcaMarker,
    PcaSummary,
    RunLayout,
    SampleMarker,
    SampleShard,
    content_digest,
    digest_of,
    reused_key,
    shard_key,
    shard_number,
)
from image_features.documents import read_document
from image_features.embedder import open_embedder
from image_features.errors import Damaged, JobError, NotFound, Stage
from image_features.features import read_ahead
from image_features.images import RejectedImage, decode_rgb
from image_features.pca import PcaModel, is_met
from image_features.sample_reader import SampleReader
from image_features.shards import read_shard
from image_features.storage import Storage

ORTHONORMAL_TOLERANCE = 1e-8
"""Largest |C C^T - I| of components C, which are computed in float64."""

EMBEDDING_TOLERANCE = 1e-4
"""Largest difference of an embedding, stored as float32, to the projection, relative to the largest."""

EMBEDDER_TOLERANCE = 1e-3
"""Largest difference of embed.tflite to an embedding of the run, relative to the largest or to 1."""

_EMBEDDED = 8  # images that embed.tflite is checked with

_SHOWN = 10  # failures in the error's message


@dataclass(frozen=True)
class CheckReport:
    """What was checked, with the figures for the summary."""

    images: int
    features: int
    reused: int  # of the features, from an earlier run
    rejects: int
    rejects_by_reason: dict[str, int]
    conversions: dict[str, int]  # Conversion -> images, of those computed
    labels: int
    width: int
    components: int
    variance_kept: float
    shards: int
    images_digest: str  # of name, label and bytes of every image, whatever the shards
    rows_digest: str  # of every row of the features, whatever the shards
    checks: list[str] = field(default_factory=list)


class _Failures(list[str]):
    """Messages of the checks that failed."""

    stage: Stage | None = None
    """SAMPLE where the sample itself is at fault; otherwise extraction and PCA can mend the run."""

    def expect(self, holds: bool, message: str) -> None:
        if not holds:
            self.append(message)

    def add(self, error: JobError) -> None:
        """Add an error of reading; raise it if a retry may pass, because it says nothing about the output."""
        if error.retryable:
            raise error
        self.append(str(error))
        if error.stage is Stage.SAMPLE:
            self.stage = error.stage


def check_run(
    layout: RunLayout, open_storage: Callable[[str], Storage] = Storage, source: Storage | None = None
) -> CheckReport:
    """Read and check the whole output of a run. Raises JobError that lists the failed checks.

    ``source`` reads the images of a sample that is not packed, see SampleReader.
    """
    sample_store, features_store = open_storage(layout.sample), open_storage(layout.features)
    rejects_store, pca_store = open_storage(layout.rejects), open_storage(layout.pca)
    sample = read_document(SampleMarker, sample_store)
    features = read_document(FeaturesMarker, features_store)
    pca = read_document(PcaMarker, pca_store)
    failures = _Failures()

    _check_counts(failures, layout, sample, features, pca)
    source_check = _check_source_files(failures, sample, sample_store)
    _check_values(failures, layout, sample, features, pca)
    reused = {reused_key(shard.shard) for shard in features.shards if shard.reused}
    for storage, shards, others in (
        (sample_store, {shard.shard for shard in sample.shards}, {MANIFEST, LEFT_OUT}),
        (features_store, {shard.shard for shard in features.shards}, reused),
        (rejects_store, {shard.shard for shard in features.shards if shard.rejects}, set[str]()),
        (pca_store, {shard.shard for shard in pca.shards}, {PCA_MODEL, EMBEDDER, SUMMARY}),
    ):
        _check_objects(failures, storage, shards, others, Stage.SAMPLE if storage is sample_store else None)
    model = PcaModel.from_npz(pca_store.get(PCA_MODEL).to_pybytes(), pca_store.uri_of(PCA_MODEL))
    _check_model(failures, pca_store.uri_of(PCA_MODEL), model, pca)

    manifest = Manifest(sample_store, sample.manifest_digest)
    images, rows = RowsDigest(), RowsDigest()
    moments = np.zeros((2, pca.components))
    if not failures:  # the shards can only be compared when the markers agree
        sample_shards = {shard.shard: shard for shard in sample.shards}
        for shard, read in read_ahead(features_store, features.shards, features.width, COLUMNS):
            listed = manifest.take(shard.shard)
            try:
                _check_manifest(
                    sample_store.uri_of(MANIFEST), sample_shards[shard.shard], listed, sample.packed
                )
                table, values = read.result()
                identities = _check_shard(
                    failures, shard, table, listed, sample.packed, features_store, rejects_store
                )
                _check_reused(failures, shard, table, features_store)
                moments += _check_embeddings(failures, shard, table, values, model, pca_store)
                images.add(sorted(identities))
                rows.add(identities_of(table), values)
            except JobError as error:
                failures.add(error)
        if manifest.next_shard is not None:
            uri = sample_store.uri_of(MANIFEST)
            failures.add(
                Damaged(
                    f"{uri} has shard {manifest.next_shard}, which is not in the marker", stage=Stage.SAMPLE
                )
            )
    if not failures:  # a damaged shard would change the moments of all rows
        _check_spread(failures, pca_store.uri, moments, model, pca.images)
    if not failures:
        try:
            _check_summary(failures, features, pca, model, pca_store)
            reader = SampleReader(sample_store, sample, source)
            embedder = _check_embedder(failures, pca, sample, reader, pca_store)
        except JobError as error:
            failures.add(error)
    if failures:
        more = f" (and {len(failures) - _SHOWN} more)" if len(failures) > _SHOWN else ""
        raise JobError(
            f"{len(failures)} checks failed: " + "; ".join(failures[:_SHOWN]) + more, stage=failures.stage
        )
    return CheckReport(
        images=sample.images,
        features=features.features,
        reused=features.reused,
        rejects=features.rejects,
        rejects_by_reason=features.rejects_by_reason,
        conversions=features.conversions,
        labels=len(sample.labels),
        width=features.width,
        components=pca.components,
        variance_kept=pca.variance_kept,
        shards=len(features.shards),
        images_digest=images.digest,
        rows_digest=rows.digest,
        checks=[
            source_check,
            f"every image of the manifest is a feature row or a reject, once ({sample.images})",
            f"features are finite and {features.width} wide",
            f"embeddings are finite, {pca.components} wide, centred, and equal to the projection",
            "components are orthonormal, their variances sorted and those of the embeddings",
            "markers and pca/summary.json have the values of their shards; no other object is there",
            embedder,
        ],
    )


def _check_counts(
    failures: _Failures, layout: RunLayout, sample: SampleMarker, features: FeaturesMarker, pca: PcaMarker
) -> None:
    total = features.features + features.rejects
    failures.expect(
        sample.images == features.images == total,
        f"{layout.features}: {sample.images} images in the manifest, {features.features} features "
        f"+ {features.rejects} rejects = {total}",
    )
    failures.expect(
        pca.images == features.features,
        f"{layout.pca}: {pca.images} embeddings for {features.features} features",
    )
    failures.expect(
        pca.features_digest == features.digest,
        f"{layout.pca}: computed from other features than those of {layout.features}; run the PCA step again",
    )
    failures.expect(
        [(s.shard, s.images) for s in sample.shards] == [(s.shard, s.images) for s in features.shards],
        f"{layout.features}: its shards are not those of {layout.sample}",
    )
    conversions = sum((Counter(shard.conversions) for shard in features.shards), Counter[str]())
    failures.expect(
        conversions == features.conversions,
        f"{layout.features}: the marker counts conversions {features.conversions}, "
        f"its shards {dict(conversions)}",
    )


def _check_source_files(failures: _Failures, sample: SampleMarker, storage: Storage) -> str:
    """Each file of the source is drawn or on the list of files left out; returns the check as a sentence."""
    if sample.source_files is None:
        return "not checked: an older release drew the sample, without a list of the files left out"
    counts = Counter[str]()
    for row in sample.left_out:
        counts[row.reason] += row.files
    try:
        table = read_shard(storage, LEFT_OUT, LEFT_OUT_SCHEMA, ["reason"])
        listed = Counter(table.column("reason").to_pylist())
    except JobError as error:
        failures.add(error)
        return ""
    if listed != counts or sample.images + counts.total() != sample.source_files:
        failures.add(
            Damaged(
                f"{storage.uri_of(LEFT_OUT)} lists {listed.total()} files left out, the marker says "
                f"{counts.total()}, beside {sample.images} images of {sample.source_files} files",
                stage=Stage.SAMPLE,
            )
        )
    return f"every file of the source is an image of the manifest or left out ({sample.source_files})"


def _check_values(
    failures: _Failures, layout: RunLayout, sample: SampleMarker, features: FeaturesMarker, pca: PcaMarker
) -> None:
    """The totals of each marker are the sums of its shards."""
    rejects = sum((Counter(shard.rejects) for shard in features.shards), Counter[str]())
    conversions = sum((Counter(shard.conversions) for shard in features.shards), Counter[str]())
    for uri, marker, expected in (
        (
            layout.sample,
            sample,
            {
                "images": sum(shard.images for shard in sample.shards),
                "bytes": sum(shard.bytes for shard in sample.shards),
            },
        ),
        (
            layout.features,
            features,
            {
                "features": sum(shard.features for shard in features.shards),
                "rejects": rejects.total(),
                "rejects_by_reason": dict(rejects),
                "conversions": dict(conversions),
                "reused": sum(shard.reused for shard in features.shards),
            },
        ),
        (layout.pca, pca, {"images": sum(shard.rows for shard in pca.shards), "width": features.width}),
    ):
        for name, value in expected.items():
            if getattr(marker, name) != value:
                failures.add(
                    Damaged(
                        f"{uri}/{MARKER}: {name} is {getattr(marker, name)}, its shards say {value}",
                        stage=Stage.SAMPLE if marker is sample else None,
                    )
                )
    failures.expect(
        [(s.shard, s.rows) for s in pca.shards] == [(s.shard, s.features) for s in features.shards],
        f"{layout.pca}: its shards are not those of {layout.features}",
    )


def _check_objects(
    failures: _Failures, storage: Storage, shards: set[int], others: set[str], stage: Stage | None
) -> None:
    """A stage's objects are the shards of its marker and some of ``others``.

    Other names that tools skip when they read a folder as one dataset may be there: those with a part that
    begins with "_" or "." (REUSED excepted), and the empty objects that stand for folders.
    """
    keys = {obj.key for obj in storage.list() if obj.key and not obj.key.endswith("/")}
    for key in sorted({shard_key(number) for number in shards} - keys):
        failures.add(NotFound(f"{storage.uri_of(key)} is missing", stage=stage))
    for key in sorted(keys - others - {shard_key(number) for number in shards}):
        skipped = any(part.startswith(("_", ".")) for part in key.split("/"))
        if skipped and not key.startswith(f"{REUSED}/"):
            continue
        number = shard_number(key)
        written = number is not None and key in (shard_key(number), reused_key(number))
        advice = "" if written else ", and no run writes such a name: delete it"
        failures.append(f"{storage.uri_of(key)} is not in the marker{advice}")


def _check_summary(
    failures: _Failures, features: FeaturesMarker, pca: PcaMarker, model: PcaModel, pca_store: Storage
) -> None:
    """pca/summary.json has the values of the markers and the model."""
    summary = read_document(PcaSummary, pca_store, SUMMARY)
    for name, value in {
        "images": features.images,
        "features": features.features,
        "rejects": features.rejects,
        "rejects_by_reason": features.rejects_by_reason,
        "backbone": features.backbone,
        "weights": features.weights,
        "model_digest": features.model_digest,
        "features_digest": features.digest,
        "pca_digest": model.digest,
        "embedder_digest": pca.embedder_digest,
        "width": pca.width,
        "request": pca.request,
        "components": pca.components,
        "variance_kept": pca.variance_kept,
        "explained_variance": model.explained_variance.tolist(),
        "explained_variance_ratio": model.explained_variance_ratio.tolist(),
    }.items():
        failures.expect(
            getattr(summary, name) == value,
            f"{pca_store.uri_of(SUMMARY)}: {name} is {getattr(summary, name)}, markers and model say {value}",
        )
    features_of_shard = {shard.shard: shard.fingerprint for shard in features.shards}
    for shard in pca.shards:
        failures.expect(
            shard.fingerprint == digest_of(features_of_shard[shard.shard], model.digest),
            f"{pca_store.uri_of(shard_key(shard.shard))} was made by another model than {PCA_MODEL}",
        )


def _check_manifest(uri: str, shard: SampleShard, listed: list[Identity], packed: bool) -> None:
    """Raise Damaged when a shard's rows of the manifest are not what was drawn."""
    # The digest of a shard that is not packed covers sizes and versions, which the manifest does not have.
    same = not packed or content_digest(*([row[n] for row in listed] for n in range(3))) == shard.digest
    if len(listed) != shard.images or not same:
        raise Damaged(
            f"{uri}: its rows of shard {shard.shard} are not those that the sample's marker lists "
            f"({len(listed)} rows for {shard.images} images)",
            stage=Stage.SAMPLE,
        )


def _check_shard(
    failures: _Failures,
    shard: FeaturesShard,
    table: pa.Table,
    manifest: list[Identity],
    packed: bool,
    features_store: Storage,
    rejects_store: Storage,
) -> list[Identity]:
    """Features and rejects of a shard are its images of the manifest, each once, with label and digest.

    Returns the images. The manifest lists none twice, so no image is in two shards.
    """
    key = shard_key(shard.shard)
    uri = features_store.uri_of(key)
    identities = rows = identities_of(table)
    if shard.rejects:
        rejects_table = read_shard(rejects_store, key, REJECTS_SCHEMA)
        reasons = Counter(rejects_table.column("reason").to_pylist())
        failures.expect(
            reasons == shard.rejects,
            f"{rejects_store.uri_of(key)} has {reasons.total()} rows, "
            f"the marker says {sum(shard.rejects.values())}: {dict(reasons)}, not {shard.rejects}",
        )
        rejects = identities_of(rejects_table)
        identities = rows = [*rows, *rejects]
    names = [row[0] for row in rows]
    twice = len(names) - len(set(names))
    failures.expect(not twice, f"{uri}: {twice} images occur twice")
    if not packed:  # the manifest was written without digests
        bad = [image for image, _, sha256 in rows if len(sha256) != 64]
        failures.expect(not bad, f"{uri}: {len(bad)} images have no digest")
        rows = [(image, label, "") for image, label, _ in rows]
    lost = set(manifest) - set(rows)
    extra = set(rows) - set(manifest)
    failures.expect(not lost, f"{uri}: {len(lost)} images of the manifest are lost, {_example(lost)}")
    failures.expect(not extra, f"{uri}: {len(extra)} images are not in the manifest, {_example(extra)}")
    return identities


def _check_reused(
    failures: _Failures, shard: FeaturesShard, table: pa.Table, features_store: Storage
) -> None:
    """The list of reused features names images of the shard, each once, as many as the marker says."""
    if not shard.reused:
        return
    uri = features_store.uri_of(reused_key(shard.shard))
    reused = identities_of(read_shard(features_store, reused_key(shard.shard), REUSED_SCHEMA))
    rows = set(identities_of(table))
    failures.expect(
        len(reused) == len(set(reused)) == shard.reused,
        f"{uri} lists {len(reused)} images, the marker says {shard.reused}",
    )
    extra = set(reused) - rows
    failures.expect(not extra, f"{uri}: {len(extra)} images have no features, {_example(extra)}")


def _example(rows: set[Identity]) -> str:
    return f"such as {min(rows)[0]!r}" if rows else ""


def _check_embeddings(
    failures: _Failures,
    shard: FeaturesShard,
    source: pa.Table,
    features: np.ndarray[Any, np.dtype[np.float32]],
    model: PcaModel,
    pca_store: Storage,
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Embeddings are the projection of the features, row by row; returns sum and sum of squares, (2, k)."""
    key = shard_key(shard.shard)
    uri = pca_store.uri_of(key)
    components = len(model.components)
    table = read_shard(pca_store, key, EMBEDDINGS_SCHEMA)
    failures.expect(
        table.select(["image", "label"]).equals(source.select(["image", "label"])),
        f"{uri}: its images are not those of the features, in order",
    )
    lists = table.column("embedding").combine_chunks()
    values = lists.flatten().to_numpy()
    if len(values) != components * shard.features or (np.diff(lists.offsets.to_numpy()) != components).any():
        failures.append(f"{uri}: embeddings are not all {components} wide")
        return np.zeros((2, components))
    values = values.reshape(-1, components)
    bad = int((~np.isfinite(values)).any(axis=1).sum())
    failures.expect(not bad, f"{uri}: {bad} rows have NaN or infinity")
    if len(values) and not bad:
        expected = model.transform(features)
        worst = float(np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-30))
        failures.expect(
            worst <= EMBEDDING_TOLERANCE, f"{uri}: embeddings differ from the projection by {worst:.1e}"
        )
    wide = values.astype(np.float64)
    return np.stack([wide.sum(axis=0), (wide**2).sum(axis=0)])


def _check_model(failures: _Failures, uri: str, model: PcaModel, marker: PcaMarker) -> None:
    shapes = (model.components.shape, model.mean.shape, model.explained_variance.shape)
    expected = ((marker.components, marker.width), (marker.width,), (marker.components,))
    if shapes != expected:
        failures.append(f"{uri}: shapes {shapes}, expected {expected}")
        return
    gram = model.components @ model.components.T
    worst = float(np.abs(gram - np.eye(marker.components)).max())
    failures.expect(worst <= ORTHONORMAL_TOLERANCE, f"{uri}: components are off orthonormal by {worst:.1e}")
    ratio = model.explained_variance_ratio
    failures.expect(bool((np.diff(ratio) <= 0).all()), f"{uri}: explained_variance_ratio is not sorted")
    kept = model.variance_kept
    failures.expect(0 < kept <= 1 + 1e-9, f"{uri}: variance kept is {kept}")
    failures.expect(
        abs(kept - marker.variance_kept) < 1e-9,
        f"{uri}: variance kept is {kept:.6f}, the marker says {marker.variance_kept:.6f}",
    )
    failures.expect(
        is_met(marker.request, model, marker.images),
        f"{uri}: {marker.components} components keep {kept:.4f}; {marker.request} was requested",
    )


def _check_spread(
    failures: _Failures, uri: str, moments: np.ndarray[Any, Any], model: PcaModel, rows: int
) -> None:
    """Embeddings are centred, and their variances (n - 1 in the denominator) are explained_variance."""
    scale = float(np.sqrt(model.explained_variance[0]))
    off = float(np.abs(moments[0] / rows).max() / scale)
    failures.expect(
        off < EMBEDDING_TOLERANCE, f"{uri}: the embeddings' mean is off zero by {off:.1e} deviations"
    )
    variance = (moments[1] - moments[0] ** 2 / rows) / (rows - 1)
    worst = float(np.abs(variance - model.explained_variance).max() / scale**2)
    failures.expect(
        worst < EMBEDDING_TOLERANCE,
        f"{uri}: the embeddings' variance is off explained_variance by {worst:.1e}",
    )


def _check_embedder(
    failures: _Failures, pca: PcaMarker, sample: SampleMarker, reader: SampleReader, pca_store: Storage
) -> str:
    """embed.tflite computes the embeddings of some images of the sample; returns what was checked."""
    if pca.embedder_digest is None:
        failures.expect(not pca_store.exists(EMBEDDER), f"{pca_store.uri_of(EMBEDDER)} is not in the marker")
        return f"left out: there is no {EMBEDDER}, the PCA step was run without --model"
    uri, embedder = pca_store.uri_of(EMBEDDER), open_embedder(pca_store, pca)
    images = list(_some_images(pca, sample, reader, pca_store))
    largest = max(float(np.abs(expected).max()) for _, _, expected in images)
    allowed = EMBEDDER_TOLERANCE * max(1.0, largest)
    for image, content, expected in images:
        # No limit on pixels: the run's own is not known here, and it accepted the image.
        try:
            embedding = embedder.embed(decode_rgb(content, embedder.size, sys.maxsize))
        except RejectedImage as error:
            failures.append(f"{sample.source}: {image!r} has features but does not decode, {error}")
            continue
        if embedding.shape != expected.shape:
            failures.append(f"{uri} gives {len(embedding)} numbers, the embeddings have {len(expected)}")
            break
        worst = float(np.abs(embedding - expected).max())
        failures.expect(
            worst <= allowed,
            f"{uri}: {image!r} differs from its embedding by {worst:.1e}, allowed is {allowed:.1e}",
        )
    return f"{EMBEDDER} gives {len(images)} images of the sample their embeddings"


def _some_images(
    pca: PcaMarker, sample: SampleMarker, reader: SampleReader, pca_store: Storage
) -> Iterator[tuple[str, bytes | memoryview, np.ndarray[Any, np.dtype[np.float32]]]]:
    """Yield name, file and embedding of a few images, evenly spread over the rows of all shards."""
    positions = np.unique(np.linspace(0, pca.images - 1, _EMBEDDED).astype(int))
    sample_shards = {shard.shard: shard for shard in sample.shards}
    first = 0
    for shard in pca.shards:
        rows = [int(row) - first for row in positions if first <= row < first + shard.rows]
        first += shard.rows
        if not rows:
            continue
        key = shard_key(shard.shard)
        table = read_shard(pca_store, key, EMBEDDINGS_SCHEMA, ["image", "embedding"]).take(rows)
        read = reader.read(sample_shards[shard.shard], set(table.column("image").to_pylist()))
        contents = dict(zip(read.images, read.contents, strict=True))
        for image, embedding in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if image not in contents:
                raise JobError(f"the sample's {key} has no image {image!r}; draw the sample again")
            yield image, contents[image], np.array(embedding, np.float32)
