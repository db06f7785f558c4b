"""The example finds a photo's neighbours with what a cluster node has, and says what is wrong."""

from __future__ import annotations

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from image_features import cli, pca
from image_features.contract import EMBEDDINGS_SCHEMA, EmbeddingsShard, PcaMarker
from image_features.documents import read_document, to_json
from image_features.embedder import fuse, open_embedder
from image_features.images import decode_rgb
from image_features.inference import Backbone, read_backbone
from image_features.shards import write_shard
from image_features.storage import Storage
from support import markdown
from support.documents import change_values

COMPONENTS = 8


@pytest.fixture(scope="module")
def standing_run(tmp_path_factory: pytest.TempPathFactory, random_backbone: Path, drawn_folder: Path) -> Path:
    """The PCA of a run of the drawn images, in two shards and an empty one. Not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    storage = Storage(folder / "pca", create=True)
    paths = sorted(drawn_folder.glob("*/*.jpg"))
    spec, model = read_backbone(str(random_backbone))
    features, _ = Backbone(model, spec).features([path.read_bytes() for path in paths])
    fitted = pca.fit(pca.Moments.of(features), COMPONENTS)
    shards = []
    for number, rows in enumerate((slice(0, 20), slice(20, 20), slice(20, None))):
        columns = {
            "image": [path.relative_to(drawn_folder).as_posix() for path in paths[rows]],
            "label": [path.parent.name for path in paths[rows]],
            "embedding": fitted.transform(features[rows]).tolist(),
        }
        shards.append(EmbeddingsShard(number, len(columns["image"]), "fingerprint"))
        write_shard(storage, EMBEDDINGS_SCHEMA, columns, shards[-1])
    embedder = fuse(model, spec, fitted)
    storage.put("embed.tflite", embedder)
    marker = PcaMarker(
        images=len(paths),
        width=spec.width,
        components=COMPONENTS,
        variance_kept=fitted.variance_kept,
        features_digest="",
        request=f"components={COMPONENTS}",
        shards=shards,
        seconds=1.0,
        embedder_digest=hashlib.sha256(embedder).hexdigest(),
    )
    storage.put("_SUCCESS", to_json(marker))
    return folder


@pytest.fixture(scope="module")
def example(repo: Path) -> dict[str, Any]:
    return runpy.run_path(str(repo / "examples" / "find_neighbours.py"))


def test_an_image_of_the_run_is_its_own_nearest(
    example: dict[str, Any], standing_run: Path, drawn_folder: Path
) -> None:
    for name in ("Apricot/001.jpg", "Plum/003.jpg"):  # one of either shard
        first, second = example["find"](str(standing_run), drawn_folder / name, 2)
        assert (first.image, first.label) == (name, name.partition("/")[0])
        assert first.distance < 1e-3 * second.distance


def test_neighbours_are_sorted_and_limited_to_the_images_of_the_run(
    example: dict[str, Any], standing_run: Path, drawn_folder: Path
) -> None:
    photo = drawn_folder / "Plum" / "000.jpg"
    everything = example["find"](str(standing_run), photo, 1000)
    assert len({neighbour.image for neighbour in everything}) == len(everything) == 48
    assert (np.diff([neighbour.distance for neighbour in everything]) >= 0).all()
    assert example["find"](str(standing_run), photo, 5) == everything[:5]


def test_it_runs_without_what_a_node_does_not_have(
    repo: Path, standing_run: Path, drawn_folder: Path
) -> None:
    script = str(repo / "examples" / "find_neighbours.py")
    argv = [script, "--run", str(standing_run), "--image", str(drawn_folder / "Plum" / "000.jpg")]
    absent = ["tensorflow", "keras", "pyspark", "airflow", "boto3", "pandas", "sklearn", "fruit_pipeline"]
    code = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({absent!r}))  # importing one of them fails now
sys.argv = {argv!r}
runpy.run_path({script!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert lines[0].split() == [lines[0].split()[0], "Plum", "Plum/000.jpg"]


def test_help_has_an_example_and_the_exit_codes(
    example: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        example["main"](["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "    python examples/find_neighbours.py --run" in out
    assert cli.EXIT_CODES in out


def test_neighbours_can_be_printed_as_json(
    example: dict[str, Any], standing_run: Path, drawn_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = str(drawn_folder / "Plum" / "000.jpg")
    argv = ["--run", str(standing_run), "--image", photo, "--neighbours", "2", "--json"]
    assert example["main"](argv) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["image"], first["label"]) == ("Plum/000.jpg", "Plum")
    assert first["distance"] < second["distance"]


def refusal(example: dict[str, Any], run: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert example["main"](["--run", str(run), "--image", str(photo)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return [line for line in err.splitlines() if not line.startswith("INFO: ")][-1]


def test_a_run_that_is_not_there_is_named(
    example: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(example, tmp_path / "none", tmp_path / "x.jpg", capsys)
    assert line.startswith(f"error: cannot open file://{tmp_path}/none/pca: it does not exist")


def test_a_run_without_an_embedder_says_how_to_get_one(
    example: dict[str, Any], standing_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(standing_run, tmp_path / "run"))
    change_values(run / "pca" / "_SUCCESS", embedder_digest=None)
    assert "run the PCA step again, with --model" in refusal(example, run, tmp_path / "x.jpg", capsys)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"no image", "not-an-image"), (b"", "empty")],
    ids=["missing", "text", "empty"],
)
def test_a_photo_that_cannot_be_read_is_named(
    content: bytes | None,
    message: str,
    example: dict[str, Any],
    standing_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = tmp_path / "photo.jpg"
    if content is not None:
        photo.write_bytes(content)
    line = refusal(example, standing_run, photo, capsys)
    assert line.startswith(f"error: the photo {photo} cannot be read: ")
    assert message in line


@pytest.mark.parametrize("kind", ["grey of 12 bits", "grey of 16 bits", "transparent", "photo"])
def test_the_page_s_snippet_gives_a_photo_the_embedding_of_the_run(
    kind: str, standing_run: Path, drawn_folder: Path, repo: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    ramp = np.tile(np.linspace(0, 4095, 200).astype(np.uint16), (100, 1))
    if kind == "photo":
        photo.write_bytes(next(drawn_folder.glob("*/*.jpg")).read_bytes())
    elif kind == "transparent":
        pixels = np.zeros((100, 200, 4), np.uint8)
        pixels[30:60, 50:90] = (200, 30, 30, 255)
        Image.fromarray(pixels).save(photo, "PNG")
    else:
        Image.fromarray(ramp * 16 if kind == "grey of 16 bits" else ramp).save(photo, "PNG")
    blocks = markdown.blocks((repo / "docs" / "output.md").read_text(), "python")
    (snippet,) = [block for block in blocks if "Interpreter" in block]
    code = snippet.replace("demo-output/<run>", str(standing_run)).replace("print(", "shown = list(")
    code += "\nimport json\nprint(json.dumps([float(value) for value in shown]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    storage = Storage(standing_run / "pca")
    embedder = open_embedder(storage, read_document(PcaMarker, storage))
    expected = embedder.embed(decode_rgb(photo.read_bytes(), embedder.size))
    assert np.allclose(json.loads(done.stdout), expected, rtol=1e-6, atol=0)
