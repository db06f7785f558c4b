"""Shard objects: they carry their counts, and only whole ones of the schema are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_features.contract import (
    EMBEDDINGS_SCHEMA,
    FEATURES_SCHEMA,
    REJECTS_SCHEMA,
    SAMPLE_SCHEMA,
    EmbeddingsShard,
    FeaturesShard,
    SampleShard,
)
from image_features.errors import Damaged, JobError
from image_features.shards import parquet_bytes, read_shard, shard_info, write_shard
from image_features.storage import Storage

KEY = "shard-00003.parquet"
SAMPLE = {"image": ["a/1"], "label": ["a"], "sha256": ["00"], "content": [b"\xff\x00"]}
FEATURES = {"image": ["a/1"], "label": ["a"], "sha256": ["00"], "features": [[1.0, -2.5]]}
EMBEDDINGS = {"image": ["a/1"], "label": ["a"], "embedding": [[0.5]]}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def refusal(storage: Storage, schema: pa.Schema = SAMPLE_SCHEMA, columns: Any = None) -> str:
    with pytest.raises(JobError) as caught:
        read_shard(storage, KEY, schema, columns)
    message = str(caught.value)
    assert storage.uri_of(KEY) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("schema", "columns", "info"),
    [
        (SAMPLE_SCHEMA, SAMPLE, SampleShard(3, 1, 2, "ab")),
        (FEATURES_SCHEMA, FEATURES, FeaturesShard(3, 2, 1, {"empty": 1}, "ab")),
        (EMBEDDINGS_SCHEMA, EMBEDDINGS, EmbeddingsShard(3, 1, "ab")),
    ],
    ids=["sample", "features", "embeddings"],
)
def test_a_shard_is_read_with_its_rows_and_its_counts(
    schema: pa.Schema, columns: dict, info: Any, storage: Storage
) -> None:
    write_shard(storage, schema, columns, info)
    [stored] = storage.list()
    assert stored.key == KEY
    table = read_shard(storage, KEY, schema)
    assert table.to_pydict() == columns
    assert table.schema.types == schema.types
    assert shard_info(storage.parquet_metadata(KEY, stored.size), type(info)) == info


def test_an_empty_shard_is_read_as_empty(storage: Storage) -> None:
    write_shard(storage, SAMPLE_SCHEMA, {name: [] for name in SAMPLE}, SampleShard(3, 0, 0, "ab"))
    assert read_shard(storage, KEY, SAMPLE_SCHEMA).num_rows == 0


def test_only_the_requested_columns_are_read(storage: Storage) -> None:
    write_shard(storage, SAMPLE_SCHEMA, SAMPLE, SampleShard(3, 1, 2, "ab"))
    assert read_shard(storage, KEY, SAMPLE_SCHEMA, ["label", "image"]).column_names == ["label", "image"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}", '{"shard": 1}', '{"shard": 1, "colour": 2}'])
def test_metadata_that_is_not_ours_holds_no_counts(text: str | None) -> None:
    metadata = {} if text is None else {"image_features": text}
    assert shard_info(metadata, SampleShard) is None


@pytest.mark.parametrize("name", SAMPLE)
def test_a_missing_column_is_refused_even_if_it_is_not_requested(name: str, storage: Storage) -> None:
    table = pa.table(SAMPLE, schema=SAMPLE_SCHEMA).drop_columns([name])
    storage.put(KEY, parquet_bytes(table))
    asked = [other for other in SAMPLE if other != name]
    assert f"has no column '{name}'; found {', '.join(asked)}" in refusal(storage, columns=asked)


@pytest.mark.parametrize(
    ("schema", "columns", "name", "type"),
    [
        (SAMPLE_SCHEMA, SAMPLE, "content", pa.string()),
        (SAMPLE_SCHEMA, SAMPLE, "label", pa.int64()),
        (FEATURES_SCHEMA, FEATURES, "features", pa.list_(pa.float64())),
        (FEATURES_SCHEMA, FEATURES, "features", pa.list_(pa.float32(), 2)),
    ],
)
def test_a_column_of_another_type_is_refused(
    schema: pa.Schema, columns: dict, name: str, type: pa.DataType, storage: Storage
) -> None:
    value = columns[name][0] if pa.types.is_nested(type) else 1 if type == pa.int64() else "text"
    values = columns | {name: pa.array([value], type)}
    storage.put(KEY, parquet_bytes(pa.table(values)))
    found = str(type).replace("item", "element")  # as parquet calls it
    expected = schema.field(name).type
    assert f"column '{name}' is {found}, expected {expected}" in refusal(storage, schema)


@pytest.mark.parametrize("name", SAMPLE)
def test_nulls_are_refused_and_counted(name: str, storage: Storage) -> None:
    values = {key: column * 3 for key, column in SAMPLE.items()}
    values[name] = [None, values[name][0], None]
    nullable = pa.schema([field.with_nullable(True) for field in SAMPLE_SCHEMA])
    storage.put(KEY, parquet_bytes(pa.table(values, schema=nullable)))
    assert f"column '{name}' has 2 nulls" in refusal(storage)


def test_a_file_cut_anywhere_is_refused(storage: Storage) -> None:
    rows = {name: column * 50 for name, column in SAMPLE.items()}
    write_shard(storage, SAMPLE_SCHEMA, rows, SampleShard(3, 50, 100, "ab"))
    whole = storage.get(KEY).to_pybytes()
    for length in [0, 1, 4, 8, *range(12, len(whole), 41), len(whole) - 1]:
        storage.put(KEY, whole[:length])
        assert "cannot be read as parquet" in refusal(storage)


@pytest.mark.parametrize("content", [b"text", b"PAR1" * 10, bytes(1000), b"\xff\xd8\xff\xe0 a JPEG"])
def test_a_file_that_is_no_parquet_is_refused(content: bytes, storage: Storage) -> None:
    storage.put(KEY, content)
    assert "cannot be read as parquet" in refusal(storage)


def test_a_damaged_page_is_refused_or_read_but_never_another_error(storage: Storage) -> None:
    rows = {name: [column[0] for _ in range(200)] for name, column in SAMPLE.items()}
    write_shard(storage, SAMPLE_SCHEMA, rows, SampleShard(3, 200, 400, "ab"))
    whole = storage.get(KEY).to_pybytes()
    refused = 0
    for at in range(4, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        storage.put(KEY, bytes(damaged))
        try:
            read_shard(storage, KEY, SAMPLE_SCHEMA)
        except JobError:
            refused += 1
    assert refused > 10


def test_text_that_is_no_utf8_is_refused(storage: Storage) -> None:
    bad = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    storage.put(KEY, parquet_bytes(pa.table(SAMPLE | {"image": bad})))
    assert "cannot be read as parquet" in refusal(storage)


def test_a_missing_shard_is_named(storage: Storage) -> None:
    assert "does not exist" in refusal(storage)


def test_images_and_features_get_no_dictionary_and_labels_do() -> None:
    table = pa.table({**FEATURES, "content": [b"x"]})
    columns = pq.ParquetFile(pa.BufferReader(parquet_bytes(table))).metadata.row_group(0)
    dictionaries = {
        columns.column(n).path_in_schema.partition(".")[0]: columns.column(n).has_dictionary_page
        for n in range(columns.num_columns)
    }
    assert dictionaries == {
        "image": False,
        "label": True,
        "sha256": False,
        "features": False,
        "content": False,
    }


def test_rejects_have_the_reason_and_the_detail_as_text() -> None:
    assert [REJECTS_SCHEMA.field(name).type for name in ("reason", "detail")] == [pa.string()] * 2


def test_a_flipped_bit_never_changes_what_is_read(storage: Storage) -> None:
    features = {**FEATURES, "features": [list(range(100))]}
    write_shard(storage, FEATURES_SCHEMA, features, FeaturesShard(3, 1, 1, {}, "ab"))
    whole = storage.get(KEY).to_pybytes()
    expected, refused = read_shard(storage, KEY, FEATURES_SCHEMA), 0
    for at in range(len(whole)):
        storage.put(KEY, whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            assert read_shard(storage, KEY, FEATURES_SCHEMA).equals(expected), f"other rows by byte {at}"
        except Damaged:
            refused += 1
    assert refused > 500, "the pages are not checked"


def test_what_arrives_damaged_once_is_read_again(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(storage, SAMPLE_SCHEMA, SAMPLE, SampleShard(3, 1, 2, "ab"))
    whole = storage.get(KEY)
    answers = [whole.slice(0, whole.size // 2), whole]
    monkeypatch.setattr(storage, "get", lambda _: answers.pop(0))
    assert read_shard(storage, KEY, SAMPLE_SCHEMA).to_pydict() == SAMPLE
    assert not answers
