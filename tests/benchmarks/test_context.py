"""Sizes, image folders and generated features of the benchmarks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import BENCHMARKS, parse
from benchmarks.context import Context, Sizes, features_marker
from benchmarks.pca import write_features
from benchmarks.stages import _epoch
from image_features.features import read_features
from image_features.storage import Storage


def context(
    work: Path,
    images: Path | None = None,
    scale: float = 1.0,
    full: bool = False,
    repeats: int | None = None,
) -> Context:
    return Context(work, full, images, "random:0", scale, repeats, 2)


def test_sizes_are_scaled_and_differ(tmp_path: Path) -> None:
    sizes = Sizes(quick={100: 2, 200: 1}, full={1000: 3})
    assert context(tmp_path).sizes(sizes) == {100: 2, 200: 1}
    assert context(tmp_path, scale=0.2).sizes(sizes) == {20: 2, 40: 1}
    assert list(context(tmp_path, scale=0.001).sizes(sizes)) == [2]
    assert list(context(tmp_path, scale=0.3).sizes(replace(sizes, least=51))) == [51, 60]
    assert context(tmp_path, full=True).sizes(sizes) == {1000: 3}
    assert context(tmp_path, repeats=5).sizes(sizes) == {100: 5, 200: 5}


def test_images_are_repeated_under_other_names(tmp_path: Path, drawn_folder: Path) -> None:
    prepared = context(tmp_path, drawn_folder).folder_of(100)
    files = [path for path in prepared.folder.rglob("*") if path.is_file()]
    assert (len(files), prepared.images, prepared.distinct) == (100, 100, 48)
    assert len({path.read_bytes() for path in files}) == 48
    assert {path.suffix for path in files} == {".jpg"}


def test_fewer_images_are_a_stratified_draw(tmp_path: Path, drawn_folder: Path) -> None:
    prepared = context(tmp_path, drawn_folder).folder_of(24)
    assert (prepared.images, prepared.distinct) == (24, 24)
    assert len(list(prepared.folder.iterdir())) == 12


def test_generated_features_are_a_finished_prefix(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "features"), create=True)
    write_features(storage, 1500, width=16)
    marker = features_marker(tmp_path)
    parts = [read_features(storage, shard, marker.width)[1] for shard in marker.shards]
    assert [len(part) for part in parts] == [1000, 500]
    assert np.concatenate(parts).dtype == np.float32


def test_airflows_times_are_utc() -> None:
    assert _epoch("2026-01-02 03:04:05.500000") == _epoch("2026-01-02T03:04:05.5+00:00") == 1767323045.5


def test_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    args = parse(["--quick", "--only", "limit", "pca", "--scale", "0.2"])
    assert (args.only, args.scale, args.full) == (["limit", "pca"], 0.2, False)
    for wrong in (["--full", "--quick"], [], ["--quick", "--scale", "0"]):
        with pytest.raises(SystemExit) as ended:
            parse(wrong)
        assert ended.value.code == 2
    with pytest.raises(SystemExit):
        parse(["--help"])
    help_text = capsys.readouterr().out
    assert all(name in help_text for name in BENCHMARKS)
