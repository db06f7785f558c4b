"""Data that is damaged, replaced, doubled or taken away between two stages, or before a rerun."""

from __future__ import annotations

import re
import time

import damage
import pytest
from damage import FEATURES, Damage
from trial import Trial

from support.fault_kinds import Meanwhile

NAMED = r"shard-00002.parquet "


def between_steps(trial: Trial, act: Damage, key: str = FEATURES) -> None:
    """Damage an object when the features are finished, and nobody has read them yet."""
    trial.add(Meanwhile(lambda _: act(trial.storage, key), "AddJobFlowSteps", skip=1))


def before_check(trial: Trial, act: Damage, key: str) -> None:
    """Damage an object when both steps are done: the check is the first to read the PCA's marker."""
    trial.add(Meanwhile(lambda _: act(trial.storage, key), "GET", path=f"{trial.prefix}/pca/_SUCCESS"))


@pytest.mark.parametrize(
    ("how", "act", "cause"),
    [
        ("is deleted", damage.delete, f"{NAMED.strip()}: it does not exist; _SUCCESS .*"),
        ("is cut", damage.cut, f"{NAMED}cannot be read as parquet.*"),
        ("has a flipped bit", damage.flip, f"{NAMED}cannot be read as parquet.*"),
        ("is another backbone's", damage.other_backbone, f"{NAMED}is not the shard that .*"),
        ("lacks a column", damage.without_label, f"{NAMED}has no column 'label'.*"),
        ("is float64", damage.as_float64, r"column 'features' is list.*double.*expected.*"),
        ("has a NaN", damage.with_nan, f"{NAMED.strip()}: row 1 has NaN or infinity.*"),
    ],
    ids=["deleted", "cut", "flipped", "other-backbone", "column", "float64", "nan"],
)
@pytest.mark.fault("between the steps a features shard {how}")
def test_features_shard(trial: Trial, how: str, act: Damage, cause: str) -> None:
    between_steps(trial, act)
    trial.fails(cause)


@pytest.mark.parametrize(
    ("what", "act", "key", "cause"),
    [
        ("features/_SUCCESS is deleted", damage.delete, "features/_SUCCESS", r"has no _SUCCESS.*"),
        (
            "features/_SUCCESS is an older release's",
            damage.older,
            "features/_SUCCESS",
            r"has schema version 1, this code reads .*",
        ),
        ("features/_SUCCESS is cut", damage.cut, "features/_SUCCESS", r"is not a FeaturesMarker.*"),
        ("the manifest is cut", damage.cut, "sample/manifest.parquet", r"manifest.parquet cannot be read.*"),
        (
            "the manifest lacks an image",
            damage.without_last_row,
            "sample/manifest.parquet",
            r"manifest.parquet is not the one that the sample's marker names.*",
        ),
        ("the rejects are deleted", damage.delete_all, "rejects", r"rejects/shard-\d+.parquet is missing.*"),
        (
            "a shard is there twice, as shard-00099",
            damage.double,
            "features/shard-00099.parquet",
            r"shard-00099.parquet is not in the marker.*",
        ),
    ],
    ids=["no-marker", "older-marker", "cut-marker", "manifest-cut", "manifest-row", "rejects", "double"],
)
@pytest.mark.fault("between the steps {what}")
def test_between_steps(trial: Trial, what: str, act: Damage, key: str, cause: str) -> None:
    between_steps(trial, act, key)
    trial.fails(cause)


@pytest.mark.fault("between the steps somebody leaves a copy of a shard beside it")
def test_foreign_object(trial: Trial) -> None:
    name = "features/copy of shard-00002.parquet"
    between_steps(trial, damage.double, name)
    cause = r"copy of shard-00002.parquet is not in the marker, and no run writes such a name: delete it.*"
    trial.fails(cause, again=lambda: trial.storage.delete([name]))


@pytest.mark.parametrize(
    ("how", "act", "cause"),
    [
        ("is deleted", damage.delete, r"sample/shard-00002.parquet: it does not exist; _SUCCESS .*"),
        ("has a flipped bit", damage.flip, r"sample/shard-00002.parquet cannot be read as parquet.*"),
    ],
    ids=["deleted", "flipped"],
)
@pytest.mark.fault("before the extraction a sample shard {how}")
def test_sample_shard(trial: Trial, how: str, act: Damage, cause: str) -> None:
    key = "sample/shard-00002.parquet"
    trial.add(Meanwhile(lambda _: act(trial.storage, key), "AddJobFlowSteps"))
    trial.fails(cause)


@pytest.mark.parametrize(
    ("key", "cause"),
    [
        ("pca/model.npz", r"pca/model.npz is not a PCA model.*"),
        ("pca/embed.tflite", r"pca/embed.tflite has SHA-256 .*"),
        ("pca/shard-00002.parquet", r"pca/shard-00002.parquet cannot be read as parquet.*"),
    ],
    ids=["model", "embedder", "embeddings"],
)
@pytest.mark.fault("before the check a bit of {key} flips")
def test_before_check(trial: Trial, key: str, cause: str) -> None:
    before_check(trial, damage.flip, key)
    trial.fails(cause)


@pytest.mark.quick
@pytest.mark.fault("before a rerun a bit flips in a features shard, one is lost, one is there twice")
def test_rerun_of_damaged_features(trial: Trial) -> None:
    trial.copy_undisturbed()
    damage.flip(trial.storage, FEATURES)
    damage.double(trial.storage, "features/shard-00099.parquet")
    damage.delete(trial.storage, "features/shard-00005.parquet")
    trial.goes_through()
    assert 0 < trial.row["recomputed"] < 20, "more than the two shards was computed again"


@pytest.mark.fault("before a rerun a bit flips in the PCA's model and in a shard of embeddings")
def test_rerun_of_a_damaged_pca(trial: Trial) -> None:
    trial.copy_undisturbed()
    damage.flip(trial.storage, "pca/model.npz")
    damage.flip(trial.storage, "pca/shard-00003.parquet")
    trial.goes_through()
    assert trial.row["recomputed"] == 0


@pytest.mark.parametrize(
    ("what", "cause"),
    [
        ("changed", r"Kiwi/\S+ has been changed since the sample was drawn.*"),
        ("deleted", r"Kiwi/\S+ has been deleted since the sample was drawn.*"),
    ],
    ids=["changed", "deleted"],
)
@pytest.mark.fault("an image that is not packed is {what} while the cluster starts")
def test_unpacked_image(trial: Trial, what: str, cause: str) -> None:
    source, name = trial.upload_source(), "Kiwi/000.jpg"
    trial.params.update(source=source.uri, pack=False)
    # The testbed's own connection for sources has no credentials: its images lie in a folder.
    trial.variables["FRUITS_SOURCE_AWS_CONN_ID"] = "aws_local"
    whole = source.get(name).to_pybytes()
    act = damage.cut if what == "changed" else damage.delete
    trial.add(Meanwhile(lambda _: act(source, name), "AddJobFlowSteps"))
    trial.fails(cause, again=lambda: source.put(name, whole))


@pytest.mark.fault("two runs of one key, by two Airflows, come to make their cluster at the same moment")
def test_two_at_once(trial: Trial) -> None:
    started = time.monotonic()
    ended = sorted(trial.run_beside(), key=lambda one: one.ok)
    seconds = round(time.monotonic() - started)
    refused = re.search(
        r"(DAG run \S+ has been creating a cluster|cluster \S+ of run \S+ is alive, made by).*",
        ended[0].message,
    )
    assert refused, (
        f"both went through, or one failed for another reason: {ended[0].message}\n{ended[0].log[-6000:]}"
    )
    trial.goes_through(run=lambda: ended[1])
    trial.row.update(outcome="one succeeded, one was refused", cause=refused[0], seconds=seconds)
