"""Names, labels and kinds of files: what is an image of a source, what is left out, and what is told."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from bombs import encoded
from PIL import Image

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.output import check_run
from fruit_pipeline.report.build import make
from fruit_pipeline.sample import sources
from fruit_pipeline.sample.draw import select_images, write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import MAX_FILE_BYTES, Source, SourceImage
from image_features import extraction, reduction
from image_features.contract import RunLayout
from image_features.errors import JobError
from image_features.storage import Storage, StoredObject
from support.local_aws import BUCKET, LocalAws
from support.spark import LocalSpark

ODD = [
    "two words/ leading and trailing .jpg",
    "line\nbreak/new\r\nline.jpg",
    "tab\there/t\tab.jpg",
    "fruit 🍎/👩‍👩‍👧‍👦.jpg",
    "עברית/\u202egpj.exe.jpg",
    "combining/e\u0301.jpg",
    "combining/é.jpg",
    "quotes/'single' \"double\" `back`.jpg",
    "#hash?query=1&x/%2F%00%20+.jpg",
    "back\\slash/a\\b.jpg",
    "a..b/c..d...jpg",
    "_SUCCESS/_SUCCESS.jpg",
    "shard-00000.parquet/shard-00000.parquet.jpg",
    "<b>bold</b>/<script>alert(1)<script>.jpg",
    "{{ 7 * 7 }}/{% raw %}${HOME}$(id).jpg",
    "-rf/--output=x.jpg",
    "NUL/CON.jpg",
    "\x01\x7f/\x1b[31mred.jpg",
    "null/None.jpg",
    "label/" + "x" * 251 + ".jpg",
    "/".join(["deep" * 50] * 5)[:1010].rstrip("/") + "/x.jpg",
]


def image(number: int) -> bytes:
    colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    return encoded(Image.new("RGB", (8, 8), colour), "PNG")


def make_source(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(number))
    return root


def test_odd_names_and_labels_go_through_a_whole_run_unchanged(tmp_path: Path, random_backbone: Path) -> None:
    source = make_source(tmp_path / "source", ODD)
    (source / "_SUCCESS" / "broken\n🍎.jpg").write_bytes(b"no image")
    layout, spark = RunLayout(str(tmp_path / "run")), LocalSpark()
    write_sample(SampleRequest(str(source), cores=1), Source(source), Storage(layout.sample, create=True))
    extraction.run(spark, layout.sample, str(random_backbone), layout.features)
    reduction.run(spark, layout.features, layout.pca, 4, model=str(random_backbone))
    assert check_run(layout).images == len(ODD) + 1
    found = {
        row["image"]: row["label"]
        for path in Path(layout.pca).glob("shard-*")
        for row in pq.read_table(path, columns=["image", "label"]).to_pylist()
    }
    assert found == {name: name.partition("/")[0] for name in ODD}
    (rejected,) = [row for p in Path(layout.rejects).glob("shard-*") for row in pq.read_table(p).to_pylist()]
    assert (rejected["image"], rejected["label"]) == ("_SUCCESS/broken\n🍎.jpg", "_SUCCESS")
    make(layout, Storage)
    page = Path(layout.report).read_text()
    assert "<script>alert(1)" not in page
    assert "<b>bold</b>" not in page


def test_one_label_with_everything_is_a_run_like_any_other(tmp_path: Path, random_backbone: Path) -> None:
    source = make_source(tmp_path / "source", [f"all/{n}.png" for n in range(12)])
    layout, spark = RunLayout(str(tmp_path / "run")), LocalSpark()
    write_sample(SampleRequest(str(source), cores=1), Source(source), Storage(layout.sample, create=True))
    extraction.run(spark, layout.sample, str(random_backbone), layout.features)
    reduction.run(spark, layout.features, layout.pca, 4, model=str(random_backbone))
    assert check_run(layout).images == 12
    make(layout, Storage)
    assert Path(layout.report).stat().st_size > 10_000


class ManyObjects:
    """A bucket's listing, as long as is asked for."""

    uri = "s3://many/fruits"

    def __init__(self, keys: list[str], size: int = 1) -> None:
        self._keys, self._size = keys, size

    def list(self) -> Iterator[StoredObject]:
        return (StoredObject(key, self._size, datetime.now(UTC), f'"{key}"') for key in self._keys)


@pytest.mark.parametrize("options", [{}, {"per_label": 1}, {"total": 100_000}])
def test_100000_labels_of_one_image_are_drawn_and_listed(tmp_path: Path, options: dict[str, Any]) -> None:
    names = [f"label {n:06d}/only.jpg" for n in range(100_000)]
    source = Source("s3://many/fruits", ManyObjects(names))  # type: ignore[arg-type]
    request = SampleRequest("s3://many/fruits", pack=False, **options)
    marker = write_sample(request, source, Storage(tmp_path / "sample", create=True))
    assert (marker.images, len(marker.labels)) == (100_000, 100_000)
    assert max(shard.images for shard in marker.shards) <= 1000


def test_100000_images_of_one_label_beside_one_of_another_are_drawn_in_proportion() -> None:
    images = [SourceImage(f"all/{n}.jpg", "all", 1) for n in range(100_000)]
    images.append(SourceImage("rare/1.jpg", "rare", 1))
    assert len(select_images(images, SampleRequest("s", total=1000))) == 1000
    assert {i.label for i in select_images(images, SampleRequest("s", per_label=1))} == {"all", "rare"}


def kinds(root: Path) -> Path:
    """A source with one image and one of each thing that has an image's name and is no file of its own."""
    source = make_source(root / "source", ["a/1.jpg"])
    make_source(root / "elsewhere", ["secret.jpg", "more/secret.jpg"])
    os.mkfifo(source / "a" / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(source / "a")  # a socket's path has 107 bytes at most
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
    (source / "a" / "device.jpg").symlink_to("/dev/zero")
    (source / "a" / "out.jpg").symlink_to(root / "elsewhere" / "secret.jpg")
    (source / "a" / "up.jpg").symlink_to("../../elsewhere/secret.jpg")
    (source / "a" / "circle.jpg").symlink_to("circle.jpg")
    (source / "a" / "one.jpg").symlink_to("other.jpg")
    (source / "a" / "other.jpg").symlink_to("one.jpg")
    (source / "b").symlink_to(root / "elsewhere" / "more")
    (source / "a" / "again").symlink_to(source)
    return source


def test_pipes_sockets_devices_and_links_that_lead_out_or_nowhere_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    listing = Source(kinds(tmp_path)).list()
    assert [image.image for image in listing.images] == ["a/1.jpg"]
    assert len(listing.left_out) == 10
    assert {each.reason for each in listing.left_out} == {"link", "no-file"}


def test_what_is_left_out_is_told_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = kinds(tmp_path)
    with caplog.at_level(logging.WARNING):
        write_sample(SampleRequest(str(source)), Source(source), Storage(tmp_path / "s", create=True))
    for line in ("left out 8 link (", "left out 2 no-file ("):
        assert line in caplog.text


def test_a_file_too_large_to_hold_is_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = make_source(tmp_path / "source", ["a/1.jpg", "a/limit.jpg", "a/over.jpg"])
    for name, size in (("limit", MAX_FILE_BYTES), ("over", MAX_FILE_BYTES + 1)):
        with (source / "a" / f"{name}.jpg").open("wb") as file:
            file.truncate(size)  # a hole: it takes no room on the disk
    listing = Source(source).list()
    assert [image.image for image in listing.images] == ["a/1.jpg", "a/limit.jpg"]
    assert [(each.file, each.reason) for each in listing.left_out] == [("a/over.jpg", "too-large")]
    (source / "a" / "limit.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        write_sample(SampleRequest(str(source)), Source(source), Storage(tmp_path / "s", create=True))
    assert "left out 1 too-large (1 .jpg), such as 'a/over.jpg': More than 256 MB" in caplog.text


def test_a_file_that_grows_between_listing_and_reading_is_packed_as_it_is_then(tmp_path: Path) -> None:
    source = make_source(tmp_path, ["a/1.jpg"])
    (listed,) = Source(source).list().images
    (source / "a" / "1.jpg").write_bytes(image(1) + b"more")
    assert Source(source).read(listed) == image(1) + b"more"


def test_a_file_that_grows_beyond_the_limit_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source(tmp_path, ["a/1.jpg"])
    (listed,) = Source(source).list().images
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 10)
    with pytest.raises(JobError, match=r"a/1\.jpg has grown over 10 bytes since it was listed"):
        Source(source).read(listed)


def test_a_file_that_vanishes_between_listing_and_reading_is_an_error_that_names_it(tmp_path: Path) -> None:
    source = make_source(tmp_path, ["a/1.jpg"])
    (listed,) = Source(source).list().images
    (source / "a" / "1.jpg").unlink()
    with pytest.raises(JobError, match=r"cannot read .*/a/1\.jpg: No such file"):
        Source(source).read(listed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    source = make_source(tmp_path, ["a/1.jpg"])
    (source / "a" / "1.jpg").chmod(0)
    (listed,) = Source(source).list().images
    with pytest.raises(JobError, match=r"cannot read .*/a/1\.jpg: Permission denied"):
        Source(source).read(listed)


@pytest.mark.parametrize(
    "key",
    [
        "two words/x y.jpg",
        "a/🍎.jpg",
        "a/\u202egpj.jpg",
        "a/%2F%20.jpg",
        "a/#?&+.jpg",
        "a\\b/c\\d.jpg",
        "a..b/c..d.jpg",
        "a/*~^|<>\"'.jpg",
        "_SUCCESS/x.jpg",
        "a/" + "x" * 950 + ".jpg",
    ],
)
def test_a_key_of_a_bucket_is_an_image_under_its_own_name(
    key: str, local_aws: LocalAws, aws: Aws, request: pytest.FixtureRequest
) -> None:
    prefix = f"odd-{abs(hash(request.node.name)) % 10**9}"
    local_aws.put(f"{prefix}/{key}", image(1))
    source = Source(f"s3://{BUCKET}/{prefix}", aws.storage(f"s3://{BUCKET}/{prefix}"))
    (found,) = source.list().images
    assert (found.image, found.label) == (key, key.partition("/")[0])
    assert source.read(found) == image(1)


@pytest.mark.parametrize("key", ["../x.jpg", "/x/y.jpg", "a/../x.jpg", "a//2.jpg", "a/./2.jpg", "a/t\tb.jpg"])
def test_a_key_that_names_no_path_is_an_error_that_names_it_and_says_what_to_do(
    key: str, local_aws: LocalAws, aws: Aws, request: pytest.FixtureRequest
) -> None:
    prefix = f"bad-{abs(hash(request.node.name)) % 10**9}"
    local_aws.put(f"{prefix}/a/1.jpg", image(1))
    local_aws.put(f"{prefix}/{key}", image(1))
    source = Source(f"s3://{BUCKET}/{prefix}", aws.storage(f"s3://{BUCKET}/{prefix}"))
    with pytest.raises(JobError, match="rename or delete that object") as caught:
        source.list()
    assert f"{prefix}/{key}" in str(caught.value)
