"""A run's report: its figures are right, what it shows is inert, and odd runs have one too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image as PictureFile
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import shapes
from fruit_pipeline.dag.form import form
from fruit_pipeline.dag.operators import MakeReport, ReportLink
from fruit_pipeline.report import quality, rows
from fruit_pipeline.report.build import make
from fruit_pipeline.run.request import from_params
from fruit_pipeline.run.summary import to_json
from fruit_pipeline.sample.draw import write_sample
from fruit_pipeline.sample.request import SampleRequest
from fruit_pipeline.sample.sources import Source
from image_features import extraction, reduction
from image_features.contract import FeaturesMarker, PcaMarker, RunLayout
from image_features.documents import read_document
from image_features.errors import JobError
from image_features.storage import Storage
from support.cli import run_cli
from support.documents import change_values
from support.local_aws import BUCKET, LocalAws
from support.report_page import HOSTILE, HOSTILE_IMAGE, Page, hostile_source, pick, report_of
from support.runs import make_run
from support.spark import LocalSpark
from support.summaries import run_summary


@pytest.fixture(scope="module")
def standing(standing_run: Path) -> tuple[Any, Page, str]:
    return report_of(standing_run)


def vectors_of(run: Path) -> dict[str, Any]:
    """Names, labels, features and embeddings of a small run, read without the report's code."""
    found: dict[str, list[Any]] = {"image": [], "label": [], "features": [], "embedding": []}
    for stage, names in (("features", ("image", "label", "features")), ("pca", ("embedding",))):
        for shard in sorted((run / stage).glob("shard-*.parquet")):
            table = pq.read_table(shard)
            for name in names:
                found[name] += table[name].to_pylist()
    vectors = {name: np.array(found.pop(name), np.float32) for name in ("features", "embedding")}
    return {**found, **vectors}


# Figures


def test_the_page_has_the_figures_of_the_run(standing: tuple[Any, Page, str], standing_run: Path) -> None:
    report, page, html = standing
    marker = json.loads((standing_run / "pca" / "_SUCCESS").read_text())
    assert (report.rows, report.points) == (48, 48)
    assert report.bytes == len(html.encode())
    for words in ("images drawn 50", "labels 12", "images with features 48", "rejects 2"):
        assert words in page.text
    assert f"8 components keep {100 * marker['variance_kept']:.1f}% of the variance" in page.text
    with np.load(standing_run / "pca" / "model.npz") as model:
        ratio = model["explained_variance_ratio"]
    for number, share in enumerate(ratio, 1):
        assert f"component {number}: {100 * share:.1f}%" in page.text
        assert f"{number} components: {100 * ratio[:number].sum():.1f}%" in page.text


def test_random_weights_are_marked_clearly(standing: tuple[Any, Page, str]) -> None:
    assert "RANDOM WEIGHTS (random:0)" in standing[1].text


def test_quality_is_what_scikit_learn_says(standing: tuple[Any, Page, str], standing_run: Path) -> None:
    run = vectors_of(standing_run)
    labels = np.array(run["label"])
    # Four images a label, 000 to 003: the first two are one block, the others the second.
    split = PredefinedSplit([int(Path(name).stem) // 2 for name in run["image"]])
    shares: dict[str, list[float]] = {
        name: [] for name in ("first_right", "any_right", "with_duplicates", "silhouette")
    }
    for vectors in (run["features"], run["embedding"]):
        nearest = KNeighborsClassifier(1)
        shares["first_right"].append((cross_val_predict(nearest, vectors, labels, cv=split) == labels).mean())
        shares["with_duplicates"].append(
            (cross_val_predict(nearest, vectors, labels, cv=LeaveOneOut()) == labels).mean()
        )
        known = np.zeros(len(labels), bool)
        for fit, ask in split.split():
            at = KNeighborsClassifier(5).fit(vectors[fit], labels[fit]).kneighbors(vectors[ask])[1]
            known[ask] = (labels[fit][at] == labels[ask][:, None]).any(axis=1)
        shares["any_right"].append(known.mean())
        shares["silhouette"].append(silhouette_score(vectors, labels))
    page_rows = {row[0]: row[1:] for row in standing[1].rows}
    for name, words in (
        ("first_right", "Nearest neighbour has the label"),
        ("any_right", "One of the 5 nearest has it"),
        ("with_duplicates", "Nearest neighbour, near duplicates allowed"),
    ):
        assert page_rows[words] == [f"{100 * share:.1f}%" for share in shares[name]]
    assert page_rows["Silhouette of the labels (-1 to 1)"] == [
        f"{share:,.3f}" for share in shares["silhouette"]
    ]


def test_images_of_a_label_are_cut_in_natural_order() -> None:
    images = ["a/r10.jpg", "a/r2.jpg", "a/r1.jpg", "a/r9.jpg", "b/x.jpg", "a/r30.jpg"]
    labels = ["a", "a", "a", "a", "b", "a"]
    assert quality.halves(images, labels).tolist() == [1, 0, 0, 1, -1, 1]


def test_near_duplicates_do_not_answer_for_each_other() -> None:
    """Frames of two films, each next to near duplicates: only a near duplicate tells the label."""
    rng = np.random.default_rng(0)
    films = rng.normal(size=(2, 8)).repeat(10, axis=0).astype(np.float32)
    frames = films + np.tile(np.repeat(np.eye(8, dtype=np.float32)[:2] * 9, 5, axis=0), (2, 1))
    labels = [f"film {n // 10}" for n in range(20)]
    images = [f"{label}/{n}.jpg" for n, label in enumerate(labels)]
    found = quality.measure(images, labels, frames, frames)
    assert found.full.with_duplicates == 1.0
    for row, nearest in zip(found.neighbours.queries, found.neighbours.nearest, strict=True):
        assert all((int(other) % 10 < 5) != (int(row) % 10 < 5) for other in nearest)


def test_the_confusions_are_those_of_the_nearest_neighbours(
    standing: tuple[Any, Page, str], standing_run: Path
) -> None:
    run = vectors_of(standing_run)
    labels = np.array(run["label"])
    split = PredefinedSplit([int(Path(name).stem) // 2 for name in run["image"]])
    said = cross_val_predict(KNeighborsClassifier(1), run["embedding"], labels, cv=split)
    wrong: dict[tuple[str, str], int] = {}
    for pair in zip(labels.tolist(), said.tolist(), strict=True):
        if pair[0] != pair[1]:
            wrong[pair] = wrong.get(pair, 0) + 1
    at = next(n for n, row in enumerate(standing[1].rows) if row[:2] == ["Label", "Taken for"])
    shown = {(row[0], row[1]): int(row[2]) for row in standing[1].rows[at + 1 : at + 1 + min(15, len(wrong))]}
    assert shown
    assert shown.items() <= wrong.items()
    assert sum(shown.values()) == sum(sorted(wrong.values(), reverse=True)[:15])


def test_a_sample_of_rows_is_of_the_rows_of_the_run(standing_run: Path) -> None:
    whole = vectors_of(standing_run)
    at = {name: row for row, name in enumerate(whole["image"])}
    features, pca = Storage(standing_run / "features"), Storage(standing_run / "pca")
    markers = read_document(FeaturesMarker, features), read_document(PcaMarker, pca)

    def draw(**more: int) -> rows.Rows:
        return rows.draw(features, markers[0], pca, markers[1], np.random.default_rng(7), **more)

    drawn = draw(limit=10)
    assert len(drawn) == len(set(drawn.images)) == 10
    assert drawn.images == draw(limit=10).images, "by the seed"
    chosen = [at[name] for name in drawn.images]
    assert chosen == sorted(chosen)
    assert np.array_equal(drawn.features, whole["features"][chosen])
    assert np.array_equal(drawn.embeddings, whole["embedding"][chosen])
    assert drawn.labels == [whole["label"][row] for row in chosen]
    few = draw(read_bytes=1)
    assert few.shards_read == 1
    assert len(few) < 48


# What it shows, and what it does not do


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory, drawn_folder: Path, random_backbone: Path
) -> tuple[Any, Page, str]:
    folder = tmp_path_factory.mktemp("hostile")
    return report_of(
        make_run(folder / "run", hostile_source(drawn_folder, folder / "source"), random_backbone, 3)
    )


def test_names_that_are_markup_stay_text(hostile: tuple[Any, Page, str]) -> None:
    _, page, html = hostile
    assert page.tags.count("script") == 2, "the maps' data, and the project's own"
    assert "b" not in page.tags
    assert HOSTILE in page.text
    assert HOSTILE in page.data["labels"]
    assert HOSTILE_IMAGE in page.data["images"]
    assert "window.hacked" not in html[html.rindex("<script>") :]
    assert [name for name, _ in page.attributes if name.startswith("on")] == []


def test_the_page_makes_no_request(hostile: tuple[Any, Page, str]) -> None:
    _, page, html = hostile
    policy = next(value or "" for _, value in page.attributes if "default-src" in (value or ""))
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in html.replace("http-equiv", "")
    links = [value or "" for name, value in page.attributes if name in ("href", "src")]
    assert all(link.startswith("#") for link in links)
    assert {link[1:] for link in links} <= set(page.by_id) | {"main"}


def test_rejects_are_listed_with_their_reasons(hostile: tuple[Any, Page, str]) -> None:
    rejected = [row for row in hostile[1].rows if row[0].endswith("<b>empty.jpg")]
    assert [row[1:] for row in rejected] == [["empty", "the file has no bytes", "nothing"]]


def test_a_reject_is_shown_as_far_as_it_decodes(
    tmp_path: Path, drawn_folder: Path, random_backbone: Path
) -> None:
    source = pick(drawn_folder, tmp_path / "source", ["Apricot", "Plum"], 3)
    cut = source / "Plum" / "cut.jpg"
    whole = (source / "Plum" / "000.jpg").read_bytes()
    cut.write_bytes(whole[: len(whole) * 3 // 4])
    report, page, _ = report_of(make_run(tmp_path / "run", source, random_backbone, 2))
    (row,) = [row for row in page.rows if row[0] == "Plum/cut.jpg"]
    assert row[1] == "truncated"
    assert row[3] == "", "a picture, no word"
    assert report.pictures == 13, "six on the map and in the gallery, and the reject"


def test_conversions_are_counted_and_explained(
    tmp_path: Path, drawn_folder: Path, random_backbone: Path
) -> None:
    source = pick(drawn_folder, tmp_path / "source", ["Apricot", "Plum"], 3)
    PictureFile.fromarray(np.zeros((40, 40, 4), np.uint8)).save(source / "Plum" / "clear.png")
    PictureFile.fromarray(np.full((40, 40), 900, np.uint16)).save(source / "Plum" / "dark.tif")
    report, page, _ = report_of(make_run(tmp_path / "run", source, random_backbone, 2))
    said = " ".join(page.by_id["conversions"].split())
    assert "1 transparent (composited on white)" in said
    assert "1 assumed-12-bit (the file declares 16 bits, but no value is above 4,095" in said
    assert "resized to a square of 224 pixels" in page.text
    assert report.pictures == 16


# Odd runs


@pytest.mark.parametrize(
    ("labels", "per_label", "components", "words"),
    [
        (["Apricot"], 4, 2, "None: every nearest neighbour has the right label."),
        (["Apricot", "Plum", "Banana"], 1, 1, "No label has two images in the sample"),
        (["Apricot", "Plum"], 4, 1, "labels, alphabetical"),
        (["Apricot"], 3, 1, "Fewer than five images"),
    ],
    ids=["one label", "three images", "one component", "three of one label"],
)
def test_small_runs_have_a_report_too(
    labels: list[str],
    per_label: int,
    components: int,
    words: str,
    tmp_path: Path,
    drawn_folder: Path,
    random_backbone: Path,
) -> None:
    source = pick(drawn_folder, tmp_path / "source", labels, per_label)
    report, page, html = report_of(make_run(tmp_path / "run", source, random_backbone, components))
    assert report.points == len(labels) * per_label
    assert words in html
    assert page.data["labels"] == sorted(labels)
    assert "nan" not in page.text.lower().split()


@pytest.mark.usefixtures("s3_environment")
def test_images_that_are_not_packed_are_shown_from_their_source(
    local_aws: LocalAws, drawn_folder: Path, tmp_path: Path, random_backbone: Path
) -> None:
    prefix = f"photos/{tmp_path.name}"
    for path in sorted(drawn_folder.glob("Plum/*.jpg")):
        local_aws.put(f"{prefix}/Plum/{path.name}", path.read_bytes())
    source, root = f"s3://{BUCKET}/{prefix}", tmp_path / "run"
    request = SampleRequest(source, cores=1, pack=False)
    write_sample(request, Source(source), Storage(root / "sample", create=True))
    spark, features = LocalSpark(), str(root / "features")
    extraction.run(spark, str(root / "sample"), str(random_backbone), features)
    reduction.run(spark, features, str(root / "pca"), 2, model=str(random_backbone))
    assert report_of(root)[0].pictures == 8
    local_aws.s3.delete_object(Bucket=BUCKET, Key=f"{prefix}/Plum/000.jpg")
    report, page, _ = report_of(root)
    assert report.pictures < 8
    assert "has been deleted since the sample was drawn" in page.text


def test_a_run_whose_sample_was_cleaned_up_has_a_report_without_pictures(run: Path) -> None:
    shutil.rmtree(run / "sample")
    report, page, _ = report_of(run)
    assert report.pictures == 0
    assert "the run's sample has been deleted" in page.text


def test_a_pca_of_other_features_is_refused(run: Path) -> None:
    change_values(run / "pca" / "_SUCCESS", features_digest="other")
    with pytest.raises(JobError, match="computed from other features"):
        report_of(run)


# Params, the command, the task's link


def test_the_params_repeat_the_run(run: Path, repo: Path) -> None:
    defaults = {name: param.resolve() for name, param in form(shapes.descriptions(repo)).items()}
    asked = from_params({**defaults, "source": "/a", "labels": ["<b>"], "variance": 0.9}, "manual__1", BUCKET)
    summary = run_summary(request=asked.to_dict())
    (run / "summary.json").write_bytes(to_json(summary))
    params = json.loads(report_of(run)[1].by_id["params"])
    assert set(params) <= set(defaults)
    again = from_params({**defaults, **params}, "manual__1", None)
    assert again == asked


def test_the_command_writes_the_report(run: Path, tmp_path: Path) -> None:
    done = run_cli("report", "--run", str(run), "--output", str(tmp_path / "r.html"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "r.html").stat().st_size
    assert not (run / "report.html").exists()


def test_a_run_that_is_not_finished_is_refused_in_one_line(run: Path) -> None:
    (run / "pca" / "_SUCCESS").unlink()
    done = run_cli("report", "--run", str(run))
    assert done.returncode == 2
    assert f"{run}/pca has no _SUCCESS" in done.stderr
    assert "Traceback" not in done.stderr


def test_in_a_bucket_the_report_is_a_page_for_browsers(
    standing_run: Path, aws: Aws, local_aws: LocalAws
) -> None:
    for file in standing_run.rglob("*"):
        if file.is_file():
            local_aws.put(f"runs/reported/{file.relative_to(standing_run).as_posix()}", file.read_bytes())
    report = make(RunLayout(f"s3://{BUCKET}/runs/reported"), aws.storage)
    assert report.place == f"s3://{BUCKET}/runs/reported/report.html"
    found = local_aws.s3.head_object(Bucket=BUCKET, Key="runs/reported/report.html")
    assert found["ContentType"] == "text/html; charset=utf-8"
    assert found["ContentLength"] == report.bytes


def test_the_task_leads_to_the_report_once_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    task = MakeReport(task_id="make_report", run={})
    link: Any = ReportLink()
    assert link.get_link(task, ti_key=None) == ""
    task.place = f"s3://{BUCKET}/runs/r 1/report.html"
    monkeypatch.setenv("FRUITS_BROWSER_ENDPOINT_URL", "http://127.0.0.1:5000")
    assert link.get_link(task, ti_key=None) == f"http://127.0.0.1:5000/{BUCKET}/runs/r%201/report.html"
