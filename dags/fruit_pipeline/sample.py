"""Draw a sample of a source and pack it into shards.

    python -m fruit_pipeline.sample --source ~/fruits --output /tmp/run/sample --per-label 20
    python -m fruit_pipeline.sample --source s3://photos/fruits --output s3://bucket/runs/r1/sample --all

The draw is stratified by label and depends only on the seed and the names of the images: each
image has a rank, the SHA-256 of seed and name, and the lowest ranks are taken. The same seed gives
the same sample on any machine, and a larger sample holds the smaller one.

With --no-pack nothing is copied: the shards list the images, and the workers read them from the
bucket where they lie. Small images are read faster when they are packed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fruit_pipeline.identities import ManifestWriter
from fruit_pipeline.sources import LEFT_OUT, MAX_FILE_BYTES, Source, SourceImage, by_name, labels_of
from image_features.contract import (
    LISTED_SCHEMA,
    SAMPLE_SCHEMA,
    SampleMarker,
    SampleShard,
    content_digest,
    digest_of,
    find_document,
    to_json,
)
from image_features.contract import MARKER as SUCCESS
from image_features.errors import JobError
from image_features.samples import listed_digest
from image_features.shards import delete_strays, write_shard
from image_features.step import at_least_one
from image_features.storage import Storage, normalise_uri

log = logging.getLogger(__name__)

SHARD_IMAGES = 1000
SHARD_BYTES = 64 * 1024 * 1024
"""A shard ends at either limit: a worker holds one shard in memory."""

SHARDS_PER_CORE = 4
"""With fewer, the last tasks leave cores idle; with more, each task's start counts."""

_READERS = 16  # files or objects read at a time


@dataclass(frozen=True)
class SampleRequest:
    """What is drawn: exactly one of per_label, total, or neither for all images."""

    source: str
    per_label: int | None = None
    total: int | None = None
    labels: tuple[str, ...] = ()  # empty: all
    seed: int = 0
    cores: int = 2  # of the cluster, for the number of shards
    pack: bool = True  # False: list the images, and leave them where they lie

    def __post_init__(self) -> None:
        if self.per_label is not None and self.total is not None:
            raise JobError("give a number of images per label or in total, not both")
        for name, value in (("images per label", self.per_label), ("images in total", self.total)):
            if value is not None and value < 1:
                raise JobError(f"{name} must be at least 1, not {value}")
        if not self.pack and not normalise_uri(self.source).startswith("s3://"):
            raise JobError(
                f"{self.source} is no s3:// prefix: the workers could not read it; pack its images instead"
            )

    @property
    def digest(self) -> str:
        """Of what is drawn; how it is cut into shards may differ."""
        drawn = [normalise_uri(self.source), self.per_label, self.total, sorted(self.labels), self.seed]
        return digest_of(json.dumps([*drawn, self.pack]))


def draw(images: list[SourceImage], request: SampleRequest) -> list[SourceImage]:
    """Choose images as the request says; returned in order of their names.

    Asking for more than there are takes all there are. Raises JobError for a label that the
    source does not have.
    """
    groups = labels_of(images)
    unknown = [label for label in request.labels if label not in groups]
    if unknown:
        near = difflib.get_close_matches(unknown[0], groups, n=3) or list(groups)[:3]
        raise JobError(
            f"the source has no label {unknown[0]!r}; it has {len(groups)} labels, such as {', '.join(near)}"
        )
    if request.labels:
        groups = {label: groups[label] for label in groups if label in request.labels}
    if request.total is not None:
        quotas = _apportion({label: len(group) for label, group in groups.items()}, request.total)
    else:
        quotas = {label: request.per_label or len(group) for label, group in groups.items()}

    def rank(image: SourceImage) -> bytes:
        return hashlib.sha256(f"{request.seed}\0{image.image}".encode()).digest()

    return by_name(
        image for label, group in groups.items() for image in sorted(group, key=rank)[: quotas[label]]
    )


def _apportion(sizes: dict[str, int], total: int) -> dict[str, int]:
    """Share ``total`` among labels in proportion to their sizes, by largest remainder."""
    available = sum(sizes.values())
    total = min(total, available)
    quotas = {label: total * size // available for label, size in sizes.items()}
    remainders = sorted(sizes, key=lambda label: (-(total * sizes[label] % available), label))
    for label in remainders[: total - sum(quotas.values())]:
        quotas[label] += 1
    return quotas


def split(images: list[SourceImage], cores: int) -> list[list[SourceImage]]:
    """Cut images into shards of at most SHARD_IMAGES and about SHARD_BYTES.

    Small samples get smaller shards, so that every core has at least SHARDS_PER_CORE.
    """
    size = max(1, min(SHARD_IMAGES, len(images) // (cores * SHARDS_PER_CORE)))
    shards: list[list[SourceImage]] = []
    filled = 0
    for image in images:
        if not shards or len(shards[-1]) == size or filled + image.size > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(image)
        filled += image.size
    return shards


def write_sample(request: SampleRequest, source: Source, target: Storage) -> SampleMarker:
    """Draw and pack, or list, a sample below ``target``; a finished one of the same request stays.

    Raises JobError before anything is written when the source or the request is at fault, or
    when ``target`` holds the sample of another request.
    """
    standing = find_document(SampleMarker, target)
    if standing is not None:
        if standing.request_digest == request.digest:
            log.info(
                "the sample stands already: %d images in %d shards", standing.images, len(standing.shards)
            )
            return standing
        raise JobError(
            f"{target.uri} holds a sample that was drawn otherwise (from {standing.source}, "
            f"{standing.images} images, seed {standing.seed}); use another run key, or delete it"
        )
    listing = source.list()
    if listing.ignored:
        log.warning("left out %d files: %s", listing.ignored, LEFT_OUT)
    if listing.oversized:
        shown = ", ".join(listing.oversized[:5]) + (" ..." if len(listing.oversized) > 5 else "")
        log.warning(
            "left out %d images of more than %d MB: %s", len(listing.oversized), MAX_FILE_BYTES >> 20, shown
        )
    if listing.unlabelled:
        log.warning("left out %d images that lie in no label folder", listing.unlabelled)
    chosen = draw(listing.images, request)
    _say_shortfall(request, chosen)

    plan = split(chosen, request.cores)
    # Left by an attempt that did not finish, with another plan.
    delete_strays(target, [obj.key for obj in target.list()], set(range(len(plan))))
    shards: list[SampleShard] = []
    manifest = ManifestWriter()
    last_said = time.monotonic()
    if request.pack:
        for number, (images, contents) in enumerate(_read_ahead(source, plan)):
            shards.append(_write_shard(target, number, images, contents, manifest))
            if time.monotonic() - last_said > 5:
                last_said = time.monotonic()
                log.info("packed %d of %d images", sum(s.images for s in shards), len(chosen))
    else:
        shards = [_list_shard(target, number, images, manifest) for number, images in enumerate(plan)]
    manifest.put(target)
    marker = SampleMarker(
        images=len(chosen),
        bytes=sum(s.bytes for s in shards),
        labels={label: len(group) for label, group in labels_of(chosen).items()},
        seed=request.seed,
        source=source.uri,
        request_digest=request.digest,
        shards=shards,
        cores=request.cores,
        packed=request.pack,
    )
    target.put(SUCCESS, to_json(marker))
    done = "packed" if request.pack else "listed"
    log.info("%s %d images of %d labels in %d shards", done, marker.images, len(marker.labels), len(shards))
    return marker


def _say_shortfall(request: SampleRequest, chosen: list[SourceImage]) -> None:
    if request.total is not None and len(chosen) < request.total:
        log.warning("%d images asked for, the source has %d: all are taken", request.total, len(chosen))
    if request.per_label is not None:
        short = [label for label, group in labels_of(chosen).items() if len(group) < request.per_label]
        if short:
            log.warning(
                "%d labels have fewer than %d images, all of theirs are taken: %s",
                len(short),
                request.per_label,
                ", ".join(short[:5]) + (" ..." if len(short) > 5 else ""),
            )


def _read_ahead(
    source: Source, plan: list[list[SourceImage]]
) -> Iterator[tuple[list[SourceImage], list[bytes]]]:
    """Read shard after shard, the next one while the caller writes the last."""
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
    """Write a shard that names its images; the versions say when one has been changed since."""
    names, labels = [image.image for image in images], [image.label for image in images]
    sizes, versions = [image.size for image in images], [image.version for image in images]
    shard = SampleShard(number, len(images), sum(sizes), listed_digest(names, labels, sizes, versions))
    columns: dict[str, list[Any]] = {"image": names, "label": labels, "bytes": sizes}
    write_shard(target, LISTED_SCHEMA, {**columns, "version": versions}, shard)
    manifest.add(number, {**columns, "sha256": [""] * len(images)})
    return shard


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import cli

    parser = cli.parser(__doc__)
    parser.add_argument(
        "--source", required=True, metavar="URI", help="folder or s3:// prefix of <label>/<image>"
    )
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the sample goes to")
    drawn = parser.add_mutually_exclusive_group(required=True)
    drawn.add_argument("--per-label", type=at_least_one, metavar="N", help="images of each label")
    drawn.add_argument("--total", type=at_least_one, metavar="N", help="images in all, labels in proportion")
    drawn.add_argument("--all", action="store_true", help="all images")
    parser.add_argument(
        "--label", action="append", default=[], metavar="NAME", help="only this label; repeatable"
    )
    parser.add_argument(
        "--no-pack", action="store_true", help="copy nothing: the workers read the s3:// source themselves"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--cores", type=at_least_one, default=2, help="of the cluster (default: %(default)s)")
    args = parser.parse_args(argv)

    def run() -> SampleMarker:
        request = SampleRequest(
            args.source,
            args.per_label,
            args.total,
            tuple(args.label),
            args.seed,
            args.cores,
            pack=not args.no_pack,
        )
        return write_sample(request, Source(args.source), Storage(args.output, create=True))

    return cli.run(run, args)


if __name__ == "__main__":
    sys.exit(main())
