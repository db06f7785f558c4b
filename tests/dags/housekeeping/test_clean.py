"""Temporary data is deleted, results stay, and an active run is not touched."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fruit_pipeline.aws.clusters import RUN_TAG, name_of
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.housekeeping import clean, stored_runs
from image_features.errors import JobError, StorageError
from support.cli import run_cli
from support.local_aws import BUCKET, LocalAws
from support.waiting import eventually

TEMPORARY = {
    "sample/_SUCCESS": 10,
    "sample/manifest.parquet": 100,
    "sample/shard-00000.parquet": 5_000,
    "code/install.sh": 20,
    "logs/j-1/steps/s-1/stdout.gz": 300,
}
RESULTS = {
    "features/_SUCCESS": 10,
    "features/shard-00000.parquet": 700,
    "rejects/shard-00000.parquet": 70,
    "pca/_SUCCESS": 10,
    "pca/model.npz": 900,
    "summary.json": 50,
}


@pytest.fixture
def clients(clusters: LocalAws) -> tuple[Any, Any]:
    return clusters.s3, clusters.emr


def make_run(aws: LocalAws, key: str, *, finished: bool = True) -> str:
    """A run's objects with these sizes in bytes; its summary is written last, as it is."""
    for name, size in {**TEMPORARY, **RESULTS}.items():
        if name != "summary.json":
            aws.put(f"runs/{key}/{name}", b"x" * size)
    if finished:
        aws.put(f"runs/{key}/summary.json", b"x" * RESULTS["summary.json"])
    return key


def names(aws: LocalAws, key: str) -> set[str]:
    return set(aws.keys(f"runs/{key}"))


def test_temporary_data_is_deleted_and_results_stay(clients: tuple[Any, Any], clusters: LocalAws) -> None:
    s3, emr = clients
    key = make_run(clusters, "cleaned")
    cleaning = clean.plan(s3, emr, BUCKET, key)
    assert (cleaning.objects, cleaning.bytes) == (len(TEMPORARY), sum(TEMPORARY.values()))
    assert cleaning.folders == {
        "code": clean.Folder(1, 20),
        "logs": clean.Folder(1, 300),
        "sample": clean.Folder(3, 5_110),
    }
    assert names(clusters, key) == {*TEMPORARY, *RESULTS}, "a plan deletes nothing"
    clean.delete(s3, BUCKET, cleaning.keys)
    assert names(clusters, key) == set(RESULTS)


def test_everything_is_deleted_on_request(clients: tuple[Any, Any], clusters: LocalAws) -> None:
    s3, emr = clients
    make_run(clusters, "every")
    make_run(clusters, "every-other")
    cleaning = clean.plan(s3, emr, BUCKET, "every", everything=True)
    assert cleaning.bytes == sum(TEMPORARY.values()) + sum(RESULTS.values())
    clean.delete(s3, BUCKET, cleaning.keys)
    assert names(clusters, "every") == set()
    assert names(clusters, "every-other") == {*TEMPORARY, *RESULTS}


def test_a_partly_deleted_run_does_not_look_complete(clients: tuple[Any, Any], clusters: LocalAws) -> None:
    s3, emr = clients
    make_run(clusters, "markers")
    keys = clean.plan(s3, emr, BUCKET, "markers", everything=True).keys
    last_names = [key.rpartition("/")[2] for key in keys]
    markers = [name in ("_SUCCESS", "summary.json") for name in last_names]
    assert markers == sorted(markers, reverse=True)
    assert sum(markers) == 4


def test_more_objects_than_one_request_takes(
    clients: tuple[Any, Any], clusters: LocalAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3, emr = clients
    assert clean._KEYS_PER_REQUEST == 1_000
    monkeypatch.setattr(clean, "_KEYS_PER_REQUEST", 3)
    for number in range(7):
        clusters.put(f"runs/many/sample/shard-{number:05}.parquet")
    clusters.put("runs/many/summary.json")
    cleaning = clean.plan(s3, emr, BUCKET, "many")
    assert cleaning.objects == 7
    clean.delete(s3, BUCKET, cleaning.keys)
    assert names(clusters, "many") == {"summary.json"}


def test_an_object_that_stays_is_an_error() -> None:
    class Refusing:
        def delete_objects(self, **_: Any) -> dict[str, Any]:
            return {
                "Errors": [{"Key": "runs/r/sample/a", "Code": "AccessDenied", "Message": "Access Denied"}]
            }

    with pytest.raises(StorageError, match="cannot delete s3://b/runs/r/sample/a: Access Denied"):
        clean.delete(Refusing(), "b", ["runs/r/sample/a"])


# Active runs


@pytest.mark.parametrize("everything", [True, False])
def test_a_run_with_a_living_cluster_is_refused(
    clients: tuple[Any, Any], clusters: LocalAws, everything: bool
) -> None:
    s3, emr = clients
    key = make_run(clusters, f"living-{everything}")
    cluster_id = clusters.run(name=name_of(key), tags={RUN_TAG: key})
    with pytest.raises(JobError, match=f"run {key} is active: cluster {cluster_id} works on it"):
        clean.plan(s3, emr, BUCKET, key, everything=everything)
    emr.terminate_job_flows(JobFlowIds=[cluster_id])
    eventually(lambda: clusters.state(cluster_id) == "TERMINATED")
    assert clean.plan(s3, emr, BUCKET, key).objects == len(TEMPORARY)


def test_a_run_that_draws_its_sample_has_no_cluster_yet_and_is_refused(
    clients: tuple[Any, Any], clusters: LocalAws
) -> None:
    s3, emr = clients
    make_run(clusters, "drawing", finished=False)
    with pytest.raises(JobError, match=r"drawing was written to in the last hour .* may be active"):
        clean.plan(s3, emr, BUCKET, "drawing", everything=True)


def stored(key: str, *objects: tuple[str, timedelta]) -> stored_runs.StoredRun:
    """A run whose objects were written so long ago."""
    now = datetime.now(UTC)
    return stored_runs.run_of(key, [stored_runs.RunObject(name, name, 1, now - age) for name, age in objects])


@pytest.mark.parametrize(
    ("objects", "at_work"),
    [
        ([("sample/a", timedelta(minutes=5))], True),
        ([("sample/a", timedelta(hours=2))], False),
        # Finished just now.
        ([("pca/a", timedelta(minutes=6)), ("summary.json", timedelta(minutes=5))], False),
        # Finished some time ago, and now run again.
        ([("summary.json", timedelta(days=2)), ("code/a", timedelta(minutes=5))], True),
        # AWS ships logs after the end.
        ([("summary.json", timedelta(minutes=9)), ("logs/a", timedelta(minutes=5))], False),
    ],
)
def test_a_run_is_at_work_while_something_other_than_its_summary_is_new(
    objects: list[tuple[str, timedelta]], at_work: bool
) -> None:
    assert stored("r", *objects).is_active(datetime.now(UTC)) is at_work


def test_a_run_that_does_not_exist_is_refused(clients: tuple[Any, Any]) -> None:
    with pytest.raises(JobError, match=f"s3://{BUCKET}/runs/nobody holds nothing; is the run's key right"):
        clean.plan(*clients, BUCKET, "nobody")


# By age


@pytest.fixture
def empty_bucket(clusters: LocalAws) -> LocalAws:
    for key in clusters.keys("runs"):
        clusters.s3.delete_object(Bucket=BUCKET, Key=f"runs/{key}")
    return clusters


def test_by_age_only_finished_runs_and_notebook_clusters_lose_their_temporary_data(
    empty_bucket: LocalAws,
) -> None:
    aws = empty_bucket
    make_run(aws, "finished")
    make_run(aws, "unfinished", finished=False)
    make_run(aws, "living")
    aws.put(f"runs/{stored_runs.NOTEBOOK}ada/logs/j-1/a.gz")
    aws.run(name=name_of("living"), tags={RUN_TAG: "living"})
    later = datetime.now(UTC) + timedelta(days=31)
    assert clean.clean_by_age(aws.s3, aws.emr, BUCKET, 30, later - timedelta(days=2)) == []
    done = clean.clean_by_age(aws.s3, aws.emr, BUCKET, 30, later)
    assert {cleaning.run: cleaning.bytes for cleaning in done} == {
        f"s3://{BUCKET}/runs/finished": sum(TEMPORARY.values()),
        f"s3://{BUCKET}/runs/{stored_runs.NOTEBOOK}ada": 1,
    }
    assert names(aws, "finished") == set(RESULTS)
    assert names(aws, "unfinished") == {*TEMPORARY, *RESULTS} - {"summary.json"}, "it can still be resumed"
    assert names(aws, "living") == {*TEMPORARY, *RESULTS}
    assert clean.clean_by_age(aws.s3, aws.emr, BUCKET, 30, later) == []


def test_the_runs_of_a_bucket_are_measured(empty_bucket: LocalAws) -> None:
    make_run(empty_bucket, "a")
    make_run(empty_bucket, "b", finished=False)
    empty_bucket.put("runs/stray.txt")
    runs = {run.key: run for run in stored_runs.runs_of(empty_bucket.s3, BUCKET)}
    assert set(runs) == {"a", "b"}
    assert runs["a"].bytes == sum(TEMPORARY.values()) + sum(RESULTS.values())
    assert runs["a"].temporary_objects == len(TEMPORARY)
    assert runs["a"].summed_up
    assert not runs["b"].summed_up


# The command


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("r1", ("default", "r1")),
        ("s3://other/runs/r1/", ("other", "r1")),
    ],
)
def test_a_run_is_given_by_key_or_uri(run: str, expected: tuple[str, str]) -> None:
    assert clean.locate(run, "default") == expected


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("s3://bucket", "is not a run; expected s3://<bucket>/runs/<run key>"),
        ("s3://bucket/models/abc", "is not a run"),
        ("s3://bucket/runs", "is not a run"),
        ("a/b", "'a/b' is not a run key"),
        ("", "'' is not a run key"),
    ],
)
def test_a_uri_that_is_not_a_run_is_refused_before_any_call(run: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        clean.locate(run, "default")
    with pytest.raises(JobError, match="no bucket"):
        clean.locate("r1", None)


@pytest.mark.usefixtures("s3_environment")
def test_the_command_shows_first_and_deletes_with_yes(clusters: LocalAws) -> None:
    make_run(clusters, "by-hand")
    words = ("clean", "--run", "by-hand")
    asked = run_cli(*words, FRUITS_BUCKET=BUCKET)
    assert asked.returncode == 2, asked.stderr
    assert "error: 5 objects of 5.4\u00a0kB would be deleted; give --yes to delete them" in asked.stderr
    looked = run_cli(*words, "--dry-run", FRUITS_BUCKET=BUCKET)
    assert looked.returncode == 0, looked.stderr
    sample = next(line for line in looked.stdout.splitlines() if line.startswith("sample/"))
    assert sample.split() == ["sample/", "3", "objects", "5.1", "kB"]
    assert names(clusters, "by-hand") == {*TEMPORARY, *RESULTS}
    done = run_cli(*words, "--yes", "--json", FRUITS_BUCKET=BUCKET)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["objects"], result["bytes"], result["deleted"]) == (5, 5_430, True)
    assert names(clusters, "by-hand") == set(RESULTS)


@pytest.mark.usefixtures("s3_environment")
def test_the_command_refuses_in_one_line(clusters: LocalAws) -> None:
    done = run_cli("clean", "--run", f"s3://{BUCKET}/runs/no-such-run", "--yes")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: s3://{BUCKET}/runs/no-such-run holds nothing")
    done = run_cli("clean", "--run", "s3://no-such-bucket-here/runs/r", "--yes")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_the_standing_run_has_nothing_else_that_is_temporary(aws: Aws, standing_run: Any) -> None:
    """Folders of a real run are either temporary or a result; a new one must be sorted in."""
    folders = {path.name for path in standing_run.iterdir() if path.is_dir()}
    assert folders <= {*stored_runs.TEMPORARY, "features", "rejects", "pca"}
