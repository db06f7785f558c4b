"""Documents, keys and digests that the stages hand to each other."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from image_features.contract import (
    MARKER,
    SCHEMA_VERSION,
    BackboneSpec,
    EmbeddingsShard,
    FeaturesMarker,
    FeaturesShard,
    PcaMarker,
    PcaSummary,
    RejectReason,
    RunLayout,
    SampleMarker,
    SampleShard,
    content_digest,
    digest_of,
    shard_key,
    shard_number,
)
from image_features.documents import (
    find_document,
    from_json,
    own_document,
    read_document,
    to_json,
    unsealed,
    withdraw,
    withdrawing,
)
from image_features.errors import Damaged, JobError, NotFound, Stage
from image_features.storage import Storage

DOCUMENTS = [
    SampleMarker(3, 70, {"Äpfel": 2, "日本": 1}, 7, "s3://b/fruits", "ab", [SampleShard(0, 3, 70, "cd")]),
    FeaturesMarker(
        images=3,
        features=2,
        rejects=1,
        rejects_by_reason={"empty": 1},
        width=1280,
        model_digest="ef",
        backbone="mobilenet_v2",
        weights="imagenet",
        preprocessing="tf 224 50000000",
        shards=[FeaturesShard(0, 3, 2, {"empty": 1}, "01")],
        computed_shards=1,
        seconds=1.5,
    ),
    PcaMarker(2, 1280, 2, 0.93, "23", "variance=0.9", [EmbeddingsShard(0, 2, "45")], 0.5),
    BackboneSpec("resnet50", 1.0, "imagenet", 224, 2048, "caffe", 8, "67", 1e-6, {"keras": "3"}),
    PcaSummary(
        images=3,
        features=2,
        rejects=1,
        rejects_by_reason={"empty": 1},
        backbone="mobilenet_v2",
        weights="imagenet",
        model_digest="ef",
        features_digest="23",
        pca_digest="89",
        embedder_digest=None,
        width=1280,
        request="variance=0.9",
        components=2,
        variance_kept=0.93,
        explained_variance=[2.5, 0.1],
        explained_variance_ratio=[0.9, 0.03],
        seconds={"extraction": 1.5, "pca": 0.5},
        versions={"spark": "3.5.9"},
    ),
]

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: type(d).__name__)


def unsealed_values(document: Any) -> dict[str, Any]:
    """The document's values without a checksum, as an older release wrote them."""
    return unsealed(to_json(document), "s3://b/run/doc", "a document")


def refusal(kind: type, text: bytes) -> str:
    with pytest.raises(JobError) as caught:
        from_json(kind, text, "s3://b/run/doc")
    message = str(caught.value)
    assert "s3://b/run/doc" in message
    assert "\n" not in message
    return message


@every_document
def test_a_document_survives_the_round_trip(document: Any) -> None:
    assert from_json(type(document), to_json(document), "s3://b/doc") == document


@every_document
def test_a_document_of_an_older_release_has_no_checksum_and_is_read(document: Any) -> None:
    text = json.dumps(unsealed_values(document)).encode()
    assert from_json(type(document), text, "s3://b/doc") == document


@every_document
def test_no_flipped_bit_gives_another_document(document: Any) -> None:
    text = to_json(document)
    for at in range(8 * len(text)):
        damaged = bytearray(text)
        damaged[at // 8] ^= 1 << at % 8
        with suppress(Damaged):  # a bit of the layout changes no value
            assert from_json(type(document), bytes(damaged), "s3://b/doc") == document, f"bit {at}"


@every_document
def test_a_changed_value_is_refused_whatever_it_is(document: Any) -> None:
    values = json.loads(to_json(document))
    for name in values:
        text = json.dumps(values | {name: "another"}).encode()
        assert f"is not a {type(document).__name__} as it was written" in refusal(type(document), text)


def test_json_that_is_nested_too_deep_is_no_document() -> None:
    assert "is not a SampleMarker: no JSON object" in refusal(SampleMarker, b"[" * 1_000_000)


@every_document
@settings(max_examples=20, deadline=None)
@given(version=st.integers().filter(lambda version: version != SCHEMA_VERSION))
@example(version="2")
@example(version=None)
def test_another_schema_version_is_refused_with_both_versions(document: Any, version: Any) -> None:
    text = json.dumps(unsealed_values(document) | {"schema_version": version}).encode()
    assert f"schema version {version}, this code reads {SCHEMA_VERSION}" in refusal(type(document), text)


@every_document
def test_a_missing_or_unknown_field_is_refused_and_named(document: Any) -> None:
    values = unsealed_values(document)
    have_defaults = {"schema_version", "exported_with", "embedder_digest", "precision", "quality"}
    have_defaults |= {"packed", "manifest_digest", "cores", "reused", "reuse", "runtime", "conversions"}
    have_defaults |= {"source_files", "left_out", "labels_without_images", "labels_alike", "requester_pays"}
    have_defaults -= {"embedder_digest"} if isinstance(document, PcaSummary) else set()
    for name in values.keys() - have_defaults:
        text = json.dumps({key: value for key, value in values.items() if key != name}).encode()
        assert repr(name) in refusal(type(document), text)
    assert "'colour'" in refusal(type(document), json.dumps(values | {"colour": 1}).encode())


@every_document
def test_a_shard_with_a_missing_field_is_refused(document: Any) -> None:
    values = unsealed_values(document)
    for shards in ([{"shard": 0}], [0], None, 5):
        if "shards" in values:
            refusal(type(document), json.dumps(values | {"shards": shards}).encode())


NO_DOCUMENTS = [b"", b"{", b"[]", b"null", b"3", b'"text"', b"{}", b"\xff\xfe", b"[1, 2]"]


@every_document
@settings(max_examples=30, deadline=None)
@given(text=st.binary() | st.sampled_from(NO_DOCUMENTS))
def test_what_is_no_document_is_refused(document: Any, text: bytes) -> None:
    assert f"is not a {type(document).__name__}" in refusal(type(document), text)


def test_a_missing_marker_says_which_stage_to_run_and_find_returns_none(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with pytest.raises(JobError, match=f"file://{tmp_path} has no _SUCCESS: .* run it first"):
        read_document(SampleMarker, storage)
    with pytest.raises(JobError, match=f"file://{tmp_path}/model.json does not exist"):
        read_document(BackboneSpec, storage, "model.json")
    assert find_document(SampleMarker, storage) is None


def test_find_refuses_a_damaged_marker_and_does_not_take_it_for_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "_SUCCESS").write_text("{")
    with pytest.raises(JobError, match=f"{tmp_path}/_SUCCESS"):
        find_document(SampleMarker, Storage(tmp_path))


@given(shard=st.integers(0, 10**9))
@example(shard=99_999)
@example(shard=100_000)
def test_a_shards_number_can_be_read_from_its_key(shard: int) -> None:
    assert shard_number(shard_key(shard)) == shard
    assert shard_number(f"deep/below/{shard_key(shard)}") == shard


def test_keys_sort_as_their_numbers_do() -> None:
    keys = [shard_key(shard) for shard in range(0, 100_000, 617)]
    assert keys == sorted(keys)


OTHER_NAMES = [
    *("", "_SUCCESS", "manifest.parquet", "shard-.parquet", "shard-1.parquet", "shard-000001.parquet"),
    *("shard--0001.parquet", "shard-00001.parquet.tmp", "xshard-00001.parquet", "shard-00001"),
    *("shard-00001.parquet/", "shard-²²²²².parquet", "Shard-00001.parquet"),
    "shard-\u0660\u0660\u0660\u0660\u0661.parquet",
]


@given(name=st.sampled_from(OTHER_NAMES) | st.text())
def test_other_names_are_no_shards(name: str) -> None:
    assert shard_number(name) is None


def columns_of(rows: list[tuple[str, str, str]]) -> tuple[list[str], list[str], list[str]]:
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


ROW_LISTS = st.lists(
    st.tuples(st.text(), st.sampled_from(["a", "b"]), st.sampled_from(["00", "ff"])), max_size=3
)
ROWS = [("a/1.jpg", "a", "00"), ("b/2.jpg", "b", "ff")]


@given(rows=ROW_LISTS, other=ROW_LISTS)
@example(rows=ROWS, other=[ROWS[0], ("b/3.jpg", "b", "ff")])
@example(rows=ROWS, other=[ROWS[0], ("b/2.jpg", "a", "ff")])
@example(rows=ROWS, other=[ROWS[0], ("b/2.jpg", "b", "fe")])
@example(rows=ROWS, other=ROWS[::-1])
@example(rows=ROWS, other=ROWS[:1])
@example(rows=ROWS, other=[])
def test_a_shards_digest_changes_with_every_field_and_the_order(
    rows: list[tuple[str, str, str]], other: list[tuple[str, str, str]]
) -> None:
    same = content_digest(*columns_of(rows)) == content_digest(*columns_of(other))
    assert same == (rows == other)


def test_a_shards_digest_does_not_depend_on_where_one_field_ends() -> None:
    pairs = [
        ((["a"], ["bc"], ["d"]), (["ab"], ["c"], ["d"])),
        ((["a", "b"], ["x", "x"], ["0", "1"]), (['a", "x", "0"]["b'], ["x"], ["1"])),
        ((['"'], ["x"], ["y"]), (["\\"], ["x"], ["y"])),
    ]
    for left, right in pairs:
        assert content_digest(*left) != content_digest(*right)


def test_a_shards_digest_wants_columns_of_one_length() -> None:
    with pytest.raises(ValueError, match="shorter"):
        content_digest(["a", "b"], ["a", "b"], ["00"])


def test_digest_of_strings_is_unambiguous() -> None:
    digests = [digest_of(*parts) for parts in (("a", "b"), ("ab",), ("a", "", "b"), ('a", "b',), (), ("",))]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 64 for digest in digests)


def test_the_digest_of_features_changes_with_each_shards_fingerprint_and_not_with_the_time() -> None:
    document = DOCUMENTS[1]
    assert isinstance(document, FeaturesMarker)
    values = unsealed_values(document)
    slower = from_json(
        FeaturesMarker, json.dumps(values | {"seconds": 99, "computed_shards": 0}).encode(), "u"
    )
    values["shards"][0]["fingerprint"] = "02"
    other = from_json(FeaturesMarker, json.dumps(values).encode(), "u")
    assert slower.digest == document.digest != other.digest


def test_the_prefixes_of_a_run_are_six_different_ones_below_its_root() -> None:
    layout = RunLayout("s3://b/runs/r1/")
    prefixes = [layout.sample, layout.features, layout.rejects, layout.pca, layout.code, layout.logs]
    assert prefixes == [
        f"s3://b/runs/r1/{name}" for name in ("sample", "features", "rejects", "pca", "code", "logs")
    ]


def test_reject_reasons_print_as_the_text_that_is_stored() -> None:
    assert f"{RejectReason.NOT_AN_IMAGE}" == "not-an-image"


@every_document
def test_an_own_document_that_cannot_be_used_is_none(document: Any, tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    assert own_document(type(document), storage) is None
    for text in (b"", b"[]", b'{"schema_version": 1}', b'{"schema_version": 2}'):
        storage.put(MARKER, text)
        assert own_document(type(document), storage) is None
    storage.put(MARKER, to_json(document))
    assert own_document(type(document), storage) == document


def test_a_damaged_prefix_no_longer_looks_finished(tmp_path: Path) -> None:
    stages = [Storage(tmp_path / name, create=True) for name in ("features", "pca")]
    stages[0].put(MARKER, b"{}")  # the other has none: somebody else has taken it away
    said = withdraw(*stages)
    assert (
        said == "; _SUCCESS of features and pca was deleted: a run with the same key rewrites what is damaged"
    )
    assert [list(stage.list()) for stage in stages] == [[], []]


@pytest.mark.parametrize("error", [Damaged, NotFound])
def test_only_the_prefix_of_the_stage_at_fault_is_withdrawn(error: type[JobError], tmp_path: Path) -> None:
    stages = {stage: Storage(tmp_path / stage, create=True) for stage in (Stage.SAMPLE, Stage.PCA)}

    def read(stage: Stage | None) -> str:
        for storage in stages.values():
            storage.put(MARKER, b"{}")
        with pytest.raises(error) as caught, withdrawing(stages):
            raise error("a shard is damaged", stage=stage)
        assert caught.value.stage is stage
        return str(caught.value)

    assert read(Stage.SAMPLE).startswith("a shard is damaged; _SUCCESS of sample was deleted: ")
    assert [storage.exists(MARKER) for storage in stages.values()] == [False, True]
    for stage in (Stage.FEATURES, None):  # another run's, or unknown
        assert read(stage) == "a shard is damaged"
        assert [storage.exists(MARKER) for storage in stages.values()] == [True, True]


@every_document
def test_a_damaged_document_names_the_stage_that_wrote_it(document: Any) -> None:
    stages = {
        SampleMarker: Stage.SAMPLE,
        BackboneSpec: Stage.MODEL,
        FeaturesMarker: Stage.FEATURES,
        PcaMarker: Stage.PCA,
        PcaSummary: Stage.PCA,
    }
    with pytest.raises(Damaged) as caught:
        from_json(type(document), b"{", "s3://b/doc")
    assert caught.value.stage is stages[type(document)]
    assert not caught.value.retryable


def test_a_document_that_arrives_cut_is_read_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage, text = Storage(tmp_path), to_json(DOCUMENTS[0])
    answers = [pa.py_buffer(text[:40]), pa.py_buffer(text)]
    monkeypatch.setattr(storage, "get_or_none", lambda _: answers.pop(0))
    assert read_document(SampleMarker, storage) == DOCUMENTS[0]
