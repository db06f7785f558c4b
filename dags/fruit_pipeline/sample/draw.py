"""Draws a sample of a source and writes it as shards.

The draw is stratified by label and depends only on the seed and the names of the images: the rank of
an image is the SHA-256 of seed and name, and the images of the lowest ranks are chosen. The same seed
gives the same sample on any machine, and a larger sample contains the smaller one.

A packed sample contains the image files. One that is not packed lists them, and the workers read them
from the source's bucket. Small images are read faster when they are packed.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import Any

import pyarrow as pa

from fruit_pipeline.sample import labels
from fruit_pipeline.sample import left_out as left_out_files
from fruit_pipeline.sample.left_out import LeftOutFile
from fruit_pipeline.sample.manifest import ManifestWriter
from fruit_pipeline.sample.request import SHARD_BYTES, SampleRequest, images_per_shard
from fruit_pipeline.sample.sources import (
    Listing,
    Source,
    SourceImage,
    group_by_label,
    sort_by_name,
)
from image_features.contract import (
    LEFT_OUT,
    LEFT_OUT_SCHEMA,
    LISTED_SCHEMA,
    SAMPLE_SCHEMA,
    LeftOut,
    LeftOutReason,
    SampleMarker,
    SampleShard,
    content_digest,
)
from image_features.contract import MARKER as SUCCESS
from image_features.documents import find_document, to_json
from image_features.errors import Damaged, JobError
from image_features.sample_reader import listed_digest
from image_features.shards import delete_strays, parquet_bytes, write_shard
from image_features.storage import Storage

log = logging.getLogger(__name__)

_READERS = 16  # files or objects that are read at the same time


def select_images(images: list[SourceImage], request: SampleRequest) -> list[SourceImage]:
    """Choose the images that ``request`` describes, sorted by name.

    A request for more images than the source has chooses all. Raises JobError for a label that the
    source does not have.
    """
    groups = group_by_label(images)
    wanted = labels.matching(request.labels, groups)
    unknown = [label for label, found in wanted.items() if not found]
    if unknown:
        near = difflib.get_close_matches(unknown[0], groups, n=3) or list(groups)[:3]
        raise JobError(
            f"the source has no label {unknown[0]!r}; it has {len(groups)} labels, such as {', '.join(near)}"
        )
    if request.labels:
        chosen = {label for group in wanted.values() for label in group}
        groups = {label: group for label, group in groups.items() if label in chosen}
    if request.total is not None:
        quotas = _apportion({label: len(group) for label, group in groups.items()}, request.total)
    else:
        quotas = {label: request.per_label or len(group) for label, group in groups.items()}

    def rank(image: SourceImage) -> bytes:
        return hashlib.sha256(f"{request.seed}\0{image.image}".encode()).digest()

    return sort_by_name(
        image for label, group in groups.items() for image in sorted(group, key=rank)[: quotas[label]]
    )


def _apportion(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Divide ``total`` among labels in proportion to their sizes, by the largest remainder method."""
    available = sum(sizes.values())
    total = min(total, available)
    quotas = {label: total * size // available for label, size in sizes.items()}
    remainders = sorted(sizes, key=lambda label: (-(total * sizes[label] % available), label))
    for label in remainders[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def split_into_shards(images: list[SourceImage], cores: int) -> list[list[SourceImage]]:
    """Cut images, in their order, into shards of ``images_per_shard`` and about SHARD_BYTES at most."""
    size = images_per_shard(len(images), cores)
    shards: list[list[SourceImage]] = []
    shard_bytes = 0
    for image in images:
        if not shards or len(shards[-1]) == size or shard_bytes + image.size > SHARD_BYTES:
            shards.append([])
            shard_bytes = 0
        shards[-1].append(image)
        shard_bytes += image.size
    return shards


def write_sample(request: SampleRequest, source: Source, target: Storage) -> SampleMarker:
    """Draw a sample and write it below ``target``; a finished sample of the same request is reused.

    Raises JobError before anything is written when the source or the request cannot be used, or
    when ``target`` contains the sample of another request.
    """
    existing = _finished_sample(target)
    if existing is not None:
        if existing.request_digest == request.digest:
            log.info(
                "reusing the finished sample: %d images in %d shards", existing.images, len(existing.shards)
            )
            return existing
        raise JobError(
            f"{target.uri} contains the sample of another request (source {existing.source}, "
            f"{existing.images} images, seed {existing.seed}); use another run key, or delete that sample"
        )
    listing = source.list(request.label_from)
    _refuse_lost_labels(request, listing)
    chosen = select_images(listing.images, request)
    _warn_of_shortfall(request, chosen)
    left_out = _all_left_out(listing, chosen)
    counts = left_out_files.count(left_out)
    lost_labels = [label for label in listing.lost_labels if not request.labels]
    _warn_of_left_out(counts, lost_labels)
    without_share = _labels_without_share(request, listing.images, chosen)
    drawn_labels = {label: len(group) for label, group in group_by_label(chosen).items()}
    alike = labels.alike(drawn_labels)
    if alike:
        log.warning(
            "labels that differ only in capitals or in their Unicode form are different labels: %s",
            "; ".join(left_out_files.names(group) for group in alike[:5]),
        )

    plan = split_into_shards(chosen, request.cores)
    # An attempt that did not finish may have written shards of another plan.
    delete_strays(target, [obj.key for obj in target.list()], set(range(len(plan))))
    shards: list[SampleShard] = []
    manifest = ManifestWriter()
    last_message = time.monotonic()
    if request.pack:
        for number, (images, contents) in enumerate(_read_shards(source, plan)):
            shards.append(_write_shard(target, number, images, contents, manifest))
            if time.monotonic() - last_message > 5:
                last_message = time.monotonic()
                log.info("packed %d of %d images", sum(s.images for s in shards), len(chosen))
    else:
        shards = [_list_shard(target, number, images, manifest) for number, images in enumerate(plan)]
    manifest_digest = manifest.put(target)
    _put_left_out(target, left_out)
    marker = SampleMarker(
        images=len(chosen),
        bytes=sum(s.bytes for s in shards),
        labels=drawn_labels,
        seed=request.seed,
        source=source.uri,
        request_digest=request.digest,
        shards=shards,
        cores=request.cores,
        packed=request.pack,
        source_files=len(chosen) + len(left_out),
        left_out=counts,
        labels_without_images=sorted([*lost_labels, *without_share]),
        labels_alike=alike,
        requester_pays=request.requester_pays,
        manifest_digest=manifest_digest,
    )
    target.put(SUCCESS, to_json(marker))
    verb = "packed" if request.pack else "listed"
    log.info("%s %d images of %d labels in %d shards", verb, marker.images, len(marker.labels), len(shards))
    return marker


def _refuse_lost_labels(request: SampleRequest, listing: Listing) -> None:
    """Raise JobError for a requested label of which the source has files, but no image."""
    for label, *_ in filter(None, labels.matching(request.labels, listing.lost_labels).values()):
        files = [each for each in listing.left_out if each.label == label]
        raise JobError(
            f"the label {label!r} has no image: all of its files are left out, "
            f"{left_out_files.text(left_out_files.count(files))}"
        )


def _all_left_out(listing: Listing, chosen: list[SourceImage]) -> list[LeftOutFile]:
    """The files of the source that are not in the sample, sorted by name."""
    drawn = {image.image for image in chosen}
    rest = (
        LeftOutFile(image.image, image.label, LeftOutReason.NOT_DRAWN)
        for image in listing.images
        if image.image not in drawn
    )
    return sorted([*listing.left_out, *rest], key=attrgetter("file"))


def _warn_of_left_out(counts: list[LeftOut], lost_labels: list[str]) -> None:
    for reason, rows in left_out_files.by_reason(counts).items():
        log.log(
            logging.WARNING if rows[0].is_loss else logging.INFO,
            "left out %s, such as %r: %s",
            left_out_files.text(rows),
            rows[0].example,
            left_out_files.meaning(reason),
        )
    if lost_labels:
        log.warning(
            "%d labels have no image, because all of their files are left out: %s",
            len(lost_labels),
            left_out_files.names(lost_labels),
        )


def _put_left_out(target: Storage, left_out: list[LeftOutFile]) -> None:
    columns = {
        "file": [each.file for each in left_out],
        "label": [each.label for each in left_out],
        "suffix": [left_out_files.suffix_of(each.file) for each in left_out],
        "reason": [each.reason.value for each in left_out],
    }
    target.put(LEFT_OUT, parquet_bytes(pa.table(columns, schema=LEFT_OUT_SCHEMA)))


def _labels_without_share(
    request: SampleRequest, images: list[SourceImage], chosen: list[SourceImage]
) -> list[str]:
    """Labels that get no image of a total, which may be below their number; they are logged."""
    if request.total is None:
        return []
    groups = group_by_label(images)
    wanted = {label for group in labels.matching(request.labels, groups).values() for label in group}
    without = sorted((wanted or {*groups}) - {image.label for image in chosen})
    if without:
        log.warning(
            "a total of %d, divided in proportion, gives no image to %d labels: %s",
            request.total,
            len(without),
            left_out_files.names(without),
        )
    return without


def _finished_sample(target: Storage) -> SampleMarker | None:
    """The marker of a finished sample; None when there is none, or it is damaged."""
    try:
        return find_document(SampleMarker, target)
    except Damaged as error:
        log.warning("%s; the sample is drawn again", error)
        target.delete([SUCCESS])
        return None


def _warn_of_shortfall(request: SampleRequest, chosen: list[SourceImage]) -> None:
    if request.total is not None and len(chosen) < request.total:
        log.warning("%d images were requested, the source has %d: all are used", request.total, len(chosen))
    if request.per_label is not None:
        short = [label for label, group in group_by_label(chosen).items() if len(group) < request.per_label]
        if short:
            log.warning(
                "%d labels have fewer than %d images, of which all are used: %s",
                len(short),
                request.per_label,
                ", ".join(short[:5]) + (" ..." if len(short) > 5 else ""),
            )


def _read_shards(
    source: Source, plan: list[list[SourceImage]]
) -> Iterator[tuple[list[SourceImage], list[bytes]]]:
    """Yield the images of each shard with their files' bytes; the next shard is read meanwhile."""
    with ThreadPoolExecutor(_READERS) as readers:
        pending = [readers.submit(source.read, image) for image in plan[0]]
        for number, images in enumerate(plan):
            current = pending
            following = plan[number + 1] if number + 1 < len(plan) else []
            contents = [future.result() for future in current]
            pending = [readers.submit(source.read, image) for image in following]
            yield images, contents


def _write_shard(
    target: Storage,
    number: int,
    images: list[SourceImage],
    contents: list[bytes],
    manifest: ManifestWriter,
) -> SampleShard:
    columns = {
        "image": [image.image for image in images],
        "label": [image.label for image in images],
        "sha256": [hashlib.sha256(content).hexdigest() for content in contents],
    }
    shard = SampleShard(
        shard=number,
        images=len(images),
        bytes=sum(map(len, contents)),
        digest=content_digest(columns["image"], columns["label"], columns["sha256"]),
    )
    write_shard(target, SAMPLE_SCHEMA, {**columns, "content": contents}, shard)
    manifest.add(number, {**columns, "bytes": [len(content) for content in contents]})
    return shard


def _list_shard(
    target: Storage, number: int, images: list[SourceImage], manifest: ManifestWriter
) -> SampleShard:
    """Write a shard that names its images, with their versions, so that a later change is detected."""
    names, labels = [image.image for image in images], [image.label for image in images]
    sizes, versions = [image.size for image in images], [image.version for image in images]
    shard = SampleShard(number, len(images), sum(sizes), listed_digest(names, labels, sizes, versions))
    columns: dict[str, list[Any]] = {"image": names, "label": labels, "bytes": sizes}
    write_shard(target, LISTED_SCHEMA, {**columns, "version": versions}, shard)
    manifest.add(number, {**columns, "sha256": [""] * len(images)})
    return shard
