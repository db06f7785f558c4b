"""What gives an image its label, labels that lie deeper than the first folder, and labels that look alike."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from fruit_pipeline.sample.draw import select_images, write_sample
from fruit_pipeline.sample.labels import LABEL_FROM, alike, label_of, refuse_deeper_labels
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source, SourceImage
from image_features.contract import SampleMarker
from image_features.errors import JobError
from image_features.storage import Storage

NFC, NFD = (unicodedata.normalize(form, "P\u00eache") for form in ("NFC", "NFD"))

FRUITS_360 = [
    *(
        f"Training/{label}/{n}.jpg"
        for label in ("Apple Braeburn 1", "Banana 1", "Cherry 1")
        for n in range(4)
    ),
    *(f"Test/{label}/{n}.jpg" for label in ("Apple Braeburn 1", "Banana 1", "Cherry 1") for n in range(2)),
    "test-multiple_fruits/apples0.jpg",
    "papers/fig1.png",
]


def make(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def drawn(tmp_path: Path, source: Path, **request: object) -> SampleMarker:
    asked = SampleRequest(str(source), **request)  # type: ignore[arg-type]
    return write_sample(asked, Source(source), Storage(tmp_path / "sample", create=True))


@pytest.mark.parametrize(
    ("label_from", "label"),
    [("first", "a"), ("1", "a"), ("2", "b"), ("3", "c"), ("4", ""), ("parent", "c"), ("one", "fruits")],
)
def test_the_label_is_the_folder_that_is_requested(label_from: str, label: str) -> None:
    assert label_of("a/b/c/1.jpg", label_from, "s3://bucket/fruits") == label


def test_every_choice_gives_a_label_and_another_is_refused() -> None:
    assert all(label_of("a/b/c/d/1.jpg", choice, "s3://bucket") for choice in LABEL_FROM)
    with pytest.raises(JobError, match="label_from is 'second'; expected one of first, parent, 1, 2"):
        SampleRequest("s", label_from="second")


def test_the_default_leaves_the_digest_of_a_request_as_it_was() -> None:
    request = SampleRequest("s3://b/fruits", per_label=3)
    assert request.digest == SampleRequest("s3://b/fruits", per_label=3, label_from="first").digest
    assert request.digest != SampleRequest("s3://b/fruits", per_label=3, label_from="parent").digest


def test_a_data_set_of_parts_is_refused_with_the_path_or_option_to_give(tmp_path: Path) -> None:
    source = make(tmp_path / "f360", FRUITS_360)
    with pytest.raises(JobError) as caught:
        Source(source).list()
    message = str(caught.value)
    assert f"Give file://{source}/Training as the source, or label_from 2 for all of it" in message
    assert "'Training/Apple Braeburn 1'" in message
    labels = {"Apple Braeburn 1", "Banana 1", "Cherry 1"}
    assert {image.label for image in Source(source / "Training").list().images} == labels
    listing = Source(source).list("2")
    assert {image.label for image in listing.images} == labels
    assert len(listing.images) == 18
    assert {each.reason for each in listing.left_out} == {"no-label"}
    assert {image.label for image in Source(source).list("1").images} >= {"Training", "Test", "papers"}


@pytest.mark.parametrize(
    ("names", "prefix", "depth"),
    [
        (["train/a/1.jpg", "train/b/1.jpg", "val/a/2.jpg"], "s/train", 2),
        (["train2017/a/1.jpg", "train2017/b/1.jpg", "Valid_Set/a/2.jpg"], "s/train2017", 2),
        (["data/a/1.jpg", "data/b/1.jpg"], "s/data", 2),
        (["data/Training/a/1.jpg", "data/Training/b/1.jpg", "data/Test/a/1.jpg"], "s/data/Training", 3),
        (["x/y/a/1.jpg", "x/y/b/1.jpg", "readme.png"], "s/x/y", 3),
    ],
)
def test_labels_that_plainly_lie_deeper_are_refused(names: list[str], prefix: str, depth: int) -> None:
    with pytest.raises(JobError, match=rf"Give {prefix} as the source, or label_from {depth} for"):
        refuse_deeper_labels(names, "s")


@pytest.mark.parametrize(
    "names",
    [
        ["a/1.jpg", "b/2.jpg"],
        ["Apple/red/1.jpg", "Apple/green/1.jpg", "Pear/red/2.jpg"],
        ["train/1.jpg", "car/2.jpg", "test/3.jpg"],  # labels that are called so
        ["all/1.jpg", "all/2.jpg"],
        ["x/y/z/1.jpg", "x/y/z/2.jpg"],  # one label
        ["Apple/1.jpg", "Apple/2.jpg", "Apple/more/3.jpg"],
        ["training shoe/a/1.jpg", "boot/a/1.jpg", "boot/b/2.jpg"],
        ["1.jpg"],
    ],
)
def test_first_folders_that_may_be_labels_are_taken(names: list[str]) -> None:
    refuse_deeper_labels(names, "s")


def test_a_flat_prefix_is_one_label(tmp_path: Path) -> None:
    source = make(tmp_path / "flat", ["1.jpg", "2.jpg", "more/3.jpg"])
    assert drawn(tmp_path, source, label_from="one").labels == {"flat": 3}


def test_labels_that_look_alike_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert alike([NFC, NFD, "Pomme", "pomme", "Poire"]) == [sorted([NFC, NFD]), ["Pomme", "pomme"]]
    source = make(tmp_path / "s", [f"{NFC}/1.jpg", f"{NFD}/2.jpg", "Poire/3.jpg"])
    with caplog.at_level(logging.WARNING):
        marker = drawn(tmp_path, source)
    assert marker.labels_alike == [sorted([NFC, NFD])]
    assert "labels that differ only in capitals or in their Unicode form are different labels" in caplog.text


def test_a_requested_label_is_found_in_whatever_unicode_form() -> None:
    images = [SourceImage(f"{NFD}/1.jpg", NFD, 1), SourceImage("Poire/1.jpg", "Poire", 1)]
    assert [image.label for image in select_images(images, SampleRequest("s", labels=(NFC,)))] == [NFD]
    both = [*images, SourceImage(f"{NFC}/1.jpg", NFC, 1)]
    assert {image.label for image in select_images(both, SampleRequest("s", labels=(NFC,)))} == {NFC, NFD}


def test_a_total_below_the_number_of_labels_names_those_without_an_image(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = ["fig", "kiwi", "lime", "pear", "plum"]
    source = make(
        tmp_path / "s", [*(f"apple/{n}.png" for n in range(40)), *(f"{name}/0.png" for name in small)]
    )
    with caplog.at_level(logging.WARNING):
        marker = drawn(tmp_path, source, total=5)
    assert (marker.labels, marker.labels_without_images) == ({"apple": 5}, small)
    assert "a total of 5, divided in proportion, gives no image to 5 labels: 'fig', 'kiwi'" in caplog.text
