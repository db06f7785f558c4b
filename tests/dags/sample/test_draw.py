"""The draw depends on nothing but seed and names; the shards contain what was drawn."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.sample.draw import select_images, split_into_shards, write_sample
from fruit_pipeline.sample.labels import FIRST
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Listing, Source, SourceImage
from image_features.contract import LEFT_OUT, MANIFEST, MARKER, SAMPLE_SCHEMA, SampleMarker, shard_key
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.shards import read_shard
from image_features.storage import Storage
from support.local_aws import LocalAws

AWKWARD = [
    "Apple red/plain.jpg",
    "Café crème/été 1.jpg",
    "100%/50%25.jpg",
    "a+b/c+d e.jpg",
    "#1/no#2.jpg",
    "果物/りんご.png",
    "q?/a&b=c;d.jpg",
    "tilde~/it's (1) [2].jpg",
    "nested/deeper/still/x.jpg",
]


def images(**counts: int) -> list[SourceImage]:
    return [
        SourceImage(f"{label}/{n:03d}.jpg", label, 1000)
        for label, count in counts.items()
        for n in range(count)
    ]


def names(chosen: list[SourceImage]) -> list[str]:
    return [image.image for image in chosen]


def per_label(chosen: list[SourceImage]) -> Counter[str]:
    return Counter(image.label for image in chosen)


def folder_of(root: Path, files: list[str]) -> Path:
    for number, name in enumerate(files):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number}".encode())
    return root


def packed(target: Storage) -> dict[str, tuple[str, bytes]]:
    """Image to label and content, read from the shards that the marker lists."""
    files: dict[str, tuple[str, bytes]] = {}
    for shard in read_document(SampleMarker, target).shards:
        table = read_shard(target, shard_key(shard.shard), SAMPLE_SCHEMA)
        for row in table.to_pylist():
            assert row["image"] not in files
            assert row["sha256"] == hashlib.sha256(row["content"]).hexdigest()
            files[row["image"]] = (row["label"], row["content"])
    return files


# The draw


@pytest.mark.parametrize(
    "request_", [{"per_label": 7}, {"total": 23}, {"per_label": 3, "labels": ("b", "c")}]
)
def test_the_same_seed_draws_the_same_images_in_whatever_order_they_are_listed(request_: dict) -> None:
    listed = images(a=30, b=20, c=10)
    shuffled = random.Random(1).sample(listed, len(listed))
    request = SampleRequest("s", seed=5, **request_)
    assert select_images(listed, request) == select_images(shuffled, request)


def test_another_seed_draws_other_images() -> None:
    listed = images(a=100)
    drawn = [
        set(names(select_images(listed, SampleRequest("s", per_label=20, seed=seed)))) for seed in range(3)
    ]
    assert drawn[0] != drawn[1]
    assert drawn[1] != drawn[2]


def test_a_draw_is_the_same_on_every_machine_and_in_every_version() -> None:
    chosen = select_images(images(apple=10, pear=10), SampleRequest("s", per_label=2, seed=1))
    assert names(chosen) == ["apple/002.jpg", "apple/006.jpg", "pear/006.jpg", "pear/008.jpg"]


def test_per_label_draws_that_many_of_each() -> None:
    chosen = select_images(images(a=30, b=20, c=10), SampleRequest("s", per_label=7))
    assert per_label(chosen) == {"a": 7, "b": 7, "c": 7}
    assert len(set(chosen)) == 21


def test_all_takes_every_image() -> None:
    listed = images(a=30, b=20)
    assert select_images(listed, SampleRequest("s")) == sorted(listed)


def test_chosen_labels_are_the_only_ones() -> None:
    chosen = select_images(images(a=5, b=5, c=5), SampleRequest("s", labels=("c", "a")))
    assert per_label(chosen) == {"a": 5, "c": 5}


@pytest.mark.parametrize("total", [1, 2, 3, 10, 59, 99, 100])
def test_a_total_is_met_exactly_and_each_label_is_within_one_of_its_share(total: int) -> None:
    sizes = {"a": 60, "b": 30, "c": 9, "d": 1}
    counts = per_label(select_images(images(**sizes), SampleRequest("s", total=total)))
    assert sum(counts.values()) == total
    for label, size in sizes.items():
        assert abs(counts[label] - total * size / 100) < 1


def test_a_total_goes_by_largest_remainder() -> None:
    # Shares 4.7, 3.3 and 2.0 of 10: the rest of one goes to the largest remainder, a.
    counts = per_label(select_images(images(a=47, b=33, c=20), SampleRequest("s", total=10)))
    assert counts == {"a": 5, "b": 3, "c": 2}


@pytest.mark.parametrize(
    ("small", "large"), [({"per_label": 3}, {"per_label": 9}), ({"total": 10}, {"total": 40})]
)
def test_a_larger_sample_contains_the_smaller(small: dict, large: dict) -> None:
    listed = images(a=40, b=40)
    assert set(select_images(listed, SampleRequest("s", **small))) < set(
        select_images(listed, SampleRequest("s", **large))
    )


def test_a_label_is_drawn_alike_whichever_other_labels_there_are() -> None:
    request = SampleRequest("s", per_label=4)
    together = [image for image in select_images(images(a=20, b=20), request) if image.label == "a"]
    assert together == select_images(images(a=20), request)


def test_an_unknown_label_is_refused_with_names_that_are_near() -> None:
    with pytest.raises(JobError, match=r"no label 'Aple'.* Apple"):
        select_images(images(Apple=2, Pear=2, Plum=2), SampleRequest("s", labels=("Aple",)))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"per_label": 1, "total": 1}, "not both"),
        ({"per_label": 0}, "images per label must be at least 1, not 0"),
        ({"total": -3}, "images in total must be at least 1, not -3"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(wanted: dict, message: str) -> None:
    with pytest.raises(JobError, match=message):
        SampleRequest("s", **wanted)


# The shards


@pytest.mark.parametrize("cores", [1, 8, 64])
@pytest.mark.parametrize("count", [1, 7, 32, 500, 2500, 30_000])
def test_shards_contain_every_image_once_in_order(count: int, cores: int) -> None:
    listed = images(a=count)
    shards = split_into_shards(listed, cores)
    assert [image for shard in shards for image in shard] == listed
    assert max(map(len, shards)) <= 1000


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
@pytest.mark.parametrize("count", [300, 500, 1777, 2500])
def test_small_samples_have_four_shards_a_core(count: int, cores: int) -> None:
    assert len(split_into_shards(images(a=count), cores)) >= 4 * cores


def test_samples_smaller_than_that_have_a_shard_an_image() -> None:
    assert [len(shard) for shard in split_into_shards(images(a=5), 8)] == [1] * 5


def test_a_shard_ends_at_its_byte_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fruit_pipeline.sample.draw.SHARD_BYTES", 2500)
    shards = split_into_shards(images(a=1000), 1)  # 250 an even share, but two of 1,000 bytes fill one
    assert {len(shard) for shard in shards} == {2}


def test_an_image_over_the_byte_limit_has_a_shard_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fruit_pipeline.sample.draw.SHARD_BYTES", 2500)
    listed = images(a=40)
    listed[1] = SourceImage("a/001.jpg", "a", 9000)
    shards = split_into_shards(listed, 1)
    assert [listed[1]] in shards
    assert sum(map(len, shards)) == 40


# Writing


def test_awkward_names_survive_from_a_folder_to_a_folder(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "so urce#1%", AWKWARD)
    target = Storage(tmp_path / "tar get#2%", create=True)
    write_sample(SampleRequest(str(source)), Source(source), target)
    assert packed(target) == {
        name: (name.split("/")[0], f"content {number}".encode()) for number, name in enumerate(AWKWARD)
    }


def test_awkward_names_survive_from_a_bucket_to_a_bucket(local_aws: LocalAws, aws: Aws) -> None:
    for number, name in enumerate(AWKWARD):
        local_aws.put(f"awk ward/{name}", f"content {number}")
    uri = "s3://test-bucket/awk ward"
    target = aws.storage("s3://test-bucket/runs/awkward/sample")
    marker = write_sample(SampleRequest(uri), Source(uri, aws.storage(uri)), target)
    assert packed(target) == {
        name: (name.split("/")[0], f"content {number}".encode()) for number, name in enumerate(AWKWARD)
    }
    assert marker.source == uri


def test_marker_manifest_and_shards_say_the_same(tmp_path: Path, drawn_folder: Path) -> None:
    target = Storage(tmp_path, create=True)
    marker = write_sample(SampleRequest(str(drawn_folder), per_label=3), Source(drawn_folder), target)
    rows = pq.read_table(pa.BufferReader(target.get(MANIFEST))).to_pylist()
    files = packed(target)
    assert marker.images == len(rows) == len(files) == 36
    assert marker.bytes == sum(row["bytes"] for row in rows) == sum(len(c) for _, c in files.values())
    assert marker.labels == dict(Counter(row["label"] for row in rows))
    assert Counter(row["shard"] for row in rows) == {s.shard: s.images for s in marker.shards}
    assert [(row["image"], row["label"]) for row in rows] == [(n, files[n][0]) for n in sorted(files)]


def test_a_request_for_more_images_than_there_are_uses_all_and_logs_it(
    tmp_path: Path, drawn_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        request = SampleRequest(str(drawn_folder), total=1000)
        assert write_sample(request, Source(drawn_folder), Storage(tmp_path / "a", create=True)).images == 48
        request = SampleRequest(str(drawn_folder), per_label=5)
        assert write_sample(request, Source(drawn_folder), Storage(tmp_path / "b", create=True)).images == 48
    assert "1000 images were requested, the source has 48: all are used" in caplog.messages
    assert any(message.startswith("12 labels have fewer than 5 images") for message in caplog.messages)


def test_the_manifest_and_the_list_of_files_left_out_are_the_whole_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [*(f"a/{n}.jpg" for n in range(5)), "a/notes.txt", "a/.hidden.jpg", "loose.jpg", "Pear/1.HEIC"]
    source = folder_of(tmp_path / "s", files)
    target = Storage(tmp_path / "t", create=True)
    with caplog.at_level(logging.INFO):
        marker = write_sample(SampleRequest(str(source), per_label=2), Source(source), target)
    listed = pq.read_table(pa.BufferReader(target.get(LEFT_OUT))).to_pylist()
    drawn = pq.read_table(pa.BufferReader(target.get(MANIFEST))).column("image").to_pylist()
    assert sorted([*drawn, *(row["file"] for row in listed)]) == sorted(files)
    assert marker.source_files == len(files) == marker.images + sum(row.files for row in marker.left_out)
    assert [(row.reason, row.suffix, row.files) for row in marker.left_out] == [
        ("not-drawn", ".jpg", 3),
        ("no-decoder", ".heic", 1),
        ("no-image", ".txt", 1),
        ("no-label", ".jpg", 1),
        ("hidden", ".jpg", 1),
    ]
    assert marker.labels_without_images == ["Pear"]
    assert read_document(SampleMarker, target) == marker
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(text.startswith("left out 1 no-decoder (1 .heic), such as 'Pear/1.HEIC'") for text in warnings)
    assert not any("hidden" in text or "not-drawn" in text for text in warnings)
    assert any("1 labels have no image" in text and "'Pear'" in text for text in warnings)


def test_a_requested_label_that_lost_all_its_images_is_refused_with_the_reason(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "s", ["Apple/1.jpg", "Pear/1.HEIC", "Pear/2.HEIC"])
    request = SampleRequest(str(source), labels=("Pear",))
    with pytest.raises(JobError, match=r"label 'Pear' has no image: .* 2 no-decoder \(2 \.heic\)"):
        write_sample(request, Source(source), Storage(tmp_path / "t", create=True))


def test_a_file_without_bytes_is_kept_to_become_a_reject(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "s", ["a/1.jpg"])
    (source / "a" / "empty.jpg").touch()
    target = Storage(tmp_path / "t", create=True)
    write_sample(SampleRequest(str(source)), Source(source), target)
    assert packed(target)["a/empty.jpg"] == ("a", b"")


def test_running_again_leaves_a_finished_sample_as_it_is(tmp_path: Path, drawn_folder: Path) -> None:
    target, request = Storage(tmp_path, create=True), SampleRequest(str(drawn_folder), per_label=2)
    first = write_sample(request, Source(drawn_folder), target)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    # Not even read: the source is gone meanwhile.
    assert write_sample(request, Source(tmp_path / "gone"), target) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_a_damaged_marker_is_written_again_by_a_new_draw(
    tmp_path: Path, drawn_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target, request = Storage(tmp_path), SampleRequest(str(drawn_folder), per_label=2)
    source = Source(str(drawn_folder))
    first = write_sample(request, source, target)
    before = {obj.key: target.get(obj.key).to_pybytes() for obj in target.list()}
    marker = before[MARKER]
    for damaged in (b"", marker[:100], marker.replace(b'"images": 24', b'"images": 25')):
        target.put(MARKER, damaged)
        assert write_sample(request, source, target) == first
        assert {obj.key: target.get(obj.key).to_pybytes() for obj in target.list()} == before
        assert "is not a SampleMarker" in caplog.text
        assert "the sample is drawn again" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("other", [{"per_label": 3}, {"per_label": 2, "seed": 1}, {"total": 24}, {}])
def test_a_sample_of_another_request_is_not_overwritten(
    tmp_path: Path, drawn_folder: Path, other: dict
) -> None:
    target = Storage(tmp_path, create=True)
    write_sample(SampleRequest(str(drawn_folder), per_label=2), Source(drawn_folder), target)
    before = (tmp_path / MARKER).read_bytes()
    with pytest.raises(JobError, match="use another run key, or delete that sample"):
        write_sample(SampleRequest(str(drawn_folder), **other), Source(drawn_folder), target)
    assert (tmp_path / MARKER).read_bytes() == before


def test_shards_of_an_attempt_that_did_not_finish_are_gone_afterwards(
    tmp_path: Path, drawn_folder: Path
) -> None:
    target = Storage(tmp_path, create=True)
    for number in (0, 3, 40, 99):
        target.put(shard_key(number), b"half a sample")
    marker = write_sample(SampleRequest(str(drawn_folder), cores=1), Source(drawn_folder), target)
    keys = {obj.key for obj in target.list()}
    assert keys == {shard_key(shard.shard) for shard in marker.shards} | {MANIFEST, LEFT_OUT, MARKER}
    assert len(packed(target)) == 48


def test_a_file_that_cannot_be_read_is_named_and_nothing_looks_whole(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "s", [f"a/{n}.jpg" for n in range(8)])

    class Vanishing(Source):
        """Loses a file once it has been listed."""

        def list(self, label_from: str = FIRST) -> Listing:
            listing = super().list(label_from)
            (source / "a" / "7.jpg").unlink()
            return listing

    target, request = Storage(tmp_path / "t", create=True), SampleRequest(str(source), cores=1)
    with pytest.raises(JobError, match=r"cannot read .*/a/7\.jpg: "):
        write_sample(request, Vanishing(source), target)
    assert not {MARKER, MANIFEST} & {obj.key for obj in target.list()}

    (source / "a" / "7.jpg").write_bytes(b"mended")
    write_sample(request, Source(source), target)
    assert packed(target)["a/7.jpg"] == ("a", b"mended")


def test_a_link_to_nothing_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "s", ["a/1.jpg"])
    (source / "a" / "2.jpg").symlink_to("not there.jpg")
    target = Storage(tmp_path / "t", create=True)
    with pytest.raises(JobError, match=r"cannot read .*/a/2\.jpg: No such file"):
        write_sample(SampleRequest(str(source)), Source(source), target)
    assert list(target.list()) == []
