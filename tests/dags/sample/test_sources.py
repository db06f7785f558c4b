"""What counts as an image of a source, and the error when there is none."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.checks.preflight import check_source
from fruit_pipeline.run.request import PARAMS, from_params
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.left_out import LeftOutFile, check_losses, count, text
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Listing, Source, SourceImage, group_by_label
from image_features.contract import LeftOut, LeftOutReason
from image_features.errors import JobError, NotFound
from image_features.sample_reader import SampleReader
from image_features.storage import Storage
from support.cli import run_cli
from support.local_aws import LocalAws


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def listed(source: Path) -> list[str]:
    return [image.image for image in Source(source).list().images]


def reasons(listing: Listing) -> dict[str, str]:
    return {each.file: each.reason.value for each in listing.left_out}


def test_images_are_listed_by_name_with_label_and_size(tmp_path: Path) -> None:
    make(tmp_path, "b/2.JPG", "b/1.png", "a/x/y.webp")
    (tmp_path / "b/1.png").write_bytes(b"12345")
    assert Source(tmp_path).list().images == [
        SourceImage("a/x/y.webp", "a", 1),
        SourceImage("b/1.png", "b", 5),
        SourceImage("b/2.JPG", "b", 1),
    ]


def test_labels_are_grouped_in_order_of_their_name() -> None:
    images = [SourceImage("z/1.jpg", "z", 1), SourceImage("a/1.jpg", "a", 1), SourceImage("z/2.jpg", "z", 1)]
    assert [(label, len(group)) for label, group in group_by_label(images).items()] == [("a", 1), ("z", 2)]


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/.2.jpg", ".git/3.jpg", "a/Thumbs.db", "a/._4.jpg", "README.md", "loose.png")
    listing = Source(tmp_path).list()
    assert [image.image for image in listing.images] == ["a/1.jpg"]
    assert reasons(listing) == {
        "a/.2.jpg": "hidden",
        ".git/3.jpg": "hidden",
        "a/._4.jpg": "hidden",
        "a/Thumbs.db": "no-image",
        "README.md": "no-image",
        "loose.png": "no-label",
    }


def test_formats_that_are_not_decoded_are_named_as_such_and_a_lost_label_as_well(tmp_path: Path) -> None:
    make(tmp_path, "Apple/1.jpg", "Apple/2.HEIC", "Pear/3.heic", "Pear/notes.txt", "Kiwi/scan", "Fig/.x.jpg")
    make(tmp_path, "Apple/4.jxl", "Apple/5.CR3", "Apple/6.psd", "Apple/u.jpg?w=300")
    listing = Source(tmp_path).list()
    assert [image.image for image in listing.images] == ["Apple/1.jpg"]
    unknown = {"Pear/notes.txt": "no-image", "Kiwi/scan": "no-image", "Apple/u.jpg?w=300": "no-image"}
    undecoded = ("Apple/2.HEIC", "Pear/3.heic", "Apple/4.jxl", "Apple/5.CR3", "Apple/6.psd")
    hidden = {"Fig/.x.jpg": "hidden"}
    assert reasons(listing) == {**dict.fromkeys(undecoded, "no-decoder"), **unknown, **hidden}
    assert listing.lost_labels == ["Kiwi", "Pear"]


def test_files_in_folders_of_storage_devices_and_systems_are_no_images(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "a/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg", "@eaDir/x.jpg", "lost+found/0.jpg")
    make(tmp_path, "$RECYCLE.BIN/a/2.jpg", "__MACOSX/a/1.jpg", "a/.thumbnails/1.jpg", "#recycle/1.jpg")
    make(tmp_path, "a/lost+found.jpg")
    listing = Source(tmp_path).list()
    assert [image.image for image in listing.images] == ["a/1.jpg", "a/lost+found.jpg"]
    assert set(reasons(listing).values()) == {"system-folder"}
    assert len(listing.left_out) == 7
    assert listing.lost_labels == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_system_folder_that_may_not_be_listed_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    (tmp_path / "lost+found").mkdir(mode=0)
    listing = Source(tmp_path).list()
    assert reasons(listing) == {"lost+found/": "system-folder"}


def test_counts_are_by_reason_and_suffix_and_hold_every_file() -> None:
    files = [LeftOutFile(f"a/{n}.HEIC", "a", LeftOutReason.NO_DECODER) for n in range(3)]
    files += [LeftOutFile(f"a/{n}.x{n:02d}", "a", LeftOutReason.NO_IMAGE) for n in range(30)]
    counts = count(files)
    assert counts[0] == LeftOut("no-decoder", ".heic", 3, "a/0.HEIC")
    assert (len(counts), sum(row.files for row in counts)) == (22, 33)
    assert counts[-1] == LeftOut("no-image", "*", 10, "a/20.x20")
    assert text(counts).startswith("3 no-decoder (3 .heic), 30 no-image (1 .x00, ")


def test_losses_are_what_may_be_an_image_and_above_the_limit_they_are_refused() -> None:
    rows = [LeftOut("not-drawn", ".jpg", 90, "a"), LeftOut("hidden", ".jpg", 5, "b")]
    check_losses(rows, images=10, limit=0.0)
    rows.append(LeftOut("no-decoder", ".heic", 10, "c.heic"))
    check_losses(rows, images=10, limit=0.5)
    with pytest.raises(
        JobError, match=r"10 files .* left out, for 9 images drawn: 10 no-decoder \(10 \.heic"
    ):
        check_losses(rows, images=9, limit=0.5)


def test_a_link_out_of_the_source_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/secret.jpg", "source/a/1.jpg")
    (tmp_path / "source/a/2.jpg").symlink_to(tmp_path / "elsewhere/secret.jpg")
    listing = Source(tmp_path / "source").list()
    assert [image.image for image in listing.images] == ["a/1.jpg"]
    assert reasons(listing) == {"a/2.jpg": "link"}


def test_a_linked_folder_is_not_followed_but_counted(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/secret.jpg", "source/a/1.jpg")
    (tmp_path / "source/b").symlink_to(tmp_path / "elsewhere")
    listing = Source(tmp_path / "source").list()
    assert [image.image for image in listing.images] == ["a/1.jpg"]
    assert reasons(listing) == {"b": "link"}


def test_a_link_within_the_source_is_an_image_like_any_other(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b/2.jpg").symlink_to("../a/1.jpg")
    assert listed(tmp_path) == ["a/1.jpg", "b/1.jpg", "b/2.jpg"]


def test_the_source_itself_may_be_a_link(tmp_path: Path) -> None:
    make(tmp_path, "real/a/1.jpg")
    (tmp_path / "link").symlink_to("real")
    source = Source(tmp_path / "link")
    assert source.read(source.list().images[0]) == b"x"


def test_a_missing_folder_is_named_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(
        JobError, match=r"nowhere does not exist; expected a folder with one sub-folder a label"
    ):
        Source(tmp_path / "nowhere").list()


def test_a_file_as_source_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "one.jpg")
    with pytest.raises(JobError, match=r"one\.jpg is not a folder"):
        Source(tmp_path / "one.jpg").list()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"has no images; expected <source>/<label>/<image>"),
        (
            ["a/notes.txt", "a/.x.jpg"],
            r"has no images; .*; left out: 1 no-image \(1 \.txt\), 1 hidden",
        ),
        (["1.jpg", "2.jpg"], r"has 2 images but no label folders; expected <source>/<label>/<image>"),
    ],
)
def test_a_folder_without_labelled_images_says_what_is_there_and_what_to_do(
    tmp_path: Path, names: list[str], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        Source(make(tmp_path, *names)).list()


def test_a_name_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    make(tmp_path, "a/1.jpg")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/\xff.jpg"))).write_bytes(b"x")
    with pytest.raises(JobError, match=r"\\xff\.jpg' is not UTF-8; rename it"):
        Source(tmp_path).list()


LATIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
"""A locale whose encoding is not UTF-8, on any machine."""


def test_names_are_utf8_in_a_command_whatever_the_locale(tmp_path: Path) -> None:
    make(tmp_path, "dossier été/Pêche/é.jpg", "dossier été/Mûre/1.jpg")
    command = [sys.executable, "-m", "fruit_pipeline", "sample", "--source", "dossier été", "--output", "ô"]
    done = subprocess.run(
        [*command, "--all", "--label", "Pêche", "--json"],
        cwd=tmp_path,
        env={**os.environ, **LATIN},
        capture_output=True,
        check=True,
    )
    marker = json.loads(done.stdout.decode())
    assert (marker["labels"], marker["source"]) == ({"Pêche": 1}, f"file://{tmp_path}/dossier été")
    assert (tmp_path / "ô" / "_SUCCESS").is_file()


def test_names_are_utf8_in_a_process_of_any_locale(tmp_path: Path) -> None:
    """As of Airflow's worker, which cannot be started again."""
    make(tmp_path, "été/Pêche/é.jpg")
    code = (
        "from fruit_pipeline.sample.sources import Source\n"
        "source = Source('\\u00e9t\\u00e9')\n"
        "(image,) = source.list().images\n"
        "print(ascii((source.uri, image.image, image.label, source.read(image))))"
    )
    environment = {**os.environ, **LATIN, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    shown = (f"file://{tmp_path}/été", "Pêche/é.jpg", "Pêche", b"x")
    assert done.stdout.decode().strip() == ascii(shown)


@pytest.mark.parametrize("uri", ["s3://bucket//fruits", "s3:/bucket/fruits", "arn:aws:s3:::bucket/fruits"])
def test_a_uri_is_refused_alike_wherever_it_is_given(uri: str, aws: Aws) -> None:
    params = {name: spec.default for name, spec in PARAMS.items()}
    reuse = {**params, "source": "/data", "bucket": "bucket", "reuse": uri}
    uses: list[Callable[[], object]] = [
        lambda: Source(uri),
        lambda: SampleRequest(uri, pack=False),
        lambda: check_source(uri, aws),
        lambda: aws.storage(uri),
    ]
    if uri.startswith("s3://"):  # the Param's own pattern refuses the others
        uses.append(lambda: from_params(reuse, "run", None))
    for use in uses:
        with pytest.raises(JobError, match="s3://"):
            use()
    for words in (
        ("sample", "--source", uri, "--output", "/nowhere", "--all"),
        ("sample", "--source", "/nowhere", "--output", uri, "--all"),
        ("check", "--run", uri),
        ("report", "--run", uri),
        ("steps", "--run", uri, "--model", "m", "--components", "2"),
        ("cluster", "--run", uri, "--wheelhouse", "w"),
    ):
        done = run_cli(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), words
        assert uri in done.stderr


@pytest.mark.parametrize("uri", ["https://example.org/fruits", "ftp://x/y"])
def test_another_kind_of_address_is_refused(uri: str) -> None:
    with pytest.raises(JobError, match="only s3://, file:// and plain paths"):
        Source(uri)


def test_a_prefix_of_a_bucket_is_a_source(local_aws: LocalAws, aws: Aws) -> None:
    for key in ("a/1.jpg", "a/notes.txt", "b/x/2.png", "loose.jpg"):
        local_aws.put(f"source/{key}", b"123")
    for key in ("source/", "source/a/", "source/b/x/"):  # what the S3 console makes of a folder
        local_aws.put(key, b"")
    local_aws.put("source-2/a/9.jpg")  # begins alike, is another prefix
    source = Source("s3://test-bucket/source/", aws.storage("s3://test-bucket/source"))
    listing = source.list()
    version = f'"{hashlib.md5(b"123").hexdigest()}"'  # S3's ETag of an object put whole
    assert listing.images == [
        SourceImage("a/1.jpg", "a", 3, version),
        SourceImage("b/x/2.png", "b", 3, version),
    ]
    assert reasons(listing) == {"a/notes.txt": "no-image", "loose.jpg": "no-label"}
    assert source.read(listing.images[1]) == b"123"


@pytest.mark.parametrize("pack", [True, False])
def test_a_folder_of_the_console_that_is_named_as_an_image_stops_no_draw(
    local_aws: LocalAws, aws: Aws, tmp_path: Path, pack: bool
) -> None:
    """One with files below it is no file; one without is an empty file, as obstore shows both alike."""
    root = f"console-{pack}"
    for key, body in (("a/1.jpg", b"x"), ("a/2.jpg/", b""), ("a/3.jpg/", b""), ("a/3.jpg/T.jpg", b"x")):
        local_aws.put(f"{root}/{key}", body)
    uri = f"s3://test-bucket/{root}"
    source, target = Source(uri, aws.storage(uri)), Storage(tmp_path / "sample", create=True)
    marker = write_sample(SampleRequest(uri, cores=1, pack=pack), source, target)
    reader = SampleReader(target, marker, aws.storage(uri))
    contents = [read.contents for read in map(reader.read, marker.shards)]
    images = [name for read in map(reader.read, marker.shards) for name in read.images]
    assert images == ["a/1.jpg", "a/2.jpg", "a/3.jpg/T.jpg"]
    assert [bytes(content) for each in contents for content in each] == [b"x", b"", b"x"]


@pytest.mark.parametrize("storage_class", ["GLACIER", "DEEP_ARCHIVE"])
def test_an_archived_object_is_named_with_what_to_do(
    local_aws: LocalAws, aws: Aws, storage_class: str
) -> None:
    local_aws.s3.put_object(
        Bucket="test-bucket", Key=f"{storage_class}/a/1.jpg", Body=b"x", StorageClass=storage_class
    )
    uri = f"s3://test-bucket/{storage_class}"
    source = Source(uri, aws.storage(uri))
    with pytest.raises(
        JobError, match=r"S3 says InvalidObjectState .*; the object is archived: restore"
    ) as caught:
        source.read(source.list().images[0])
    assert not caught.value.retryable


def test_a_bucket_source_without_images_says_what_is_expected(aws: Aws) -> None:
    with pytest.raises(
        JobError, match=r"s3://test-bucket/nothing has no images; expected <source>/<label>/<image>"
    ):
        Source("s3://test-bucket/nothing", aws.storage("s3://test-bucket/nothing")).list()


def test_an_object_that_is_gone_is_named(aws: Aws) -> None:
    source = Source("s3://test-bucket/source", aws.storage("s3://test-bucket/source"))
    with pytest.raises(NotFound, match=r"s3://test-bucket/source/a/gone\.jpg"):
        source.read(SourceImage("a/gone.jpg", "a", 1))
