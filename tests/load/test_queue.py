"""Fifty runs that wait in Airflow's queue at once: each is its own from its Params to its message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from fruit_pipeline.aws.clusters import DAG_RUN_TAG, RUN_TAG
from fruit_pipeline.demo import run as demo_run
from fruit_pipeline.sample.drawn_images import KINDS, draw_folder
from image_features.storage import Storage
from support.airflow_components import ENDED, Api, Components
from support.mailbox import Mailbox
from support.stages import Stage, new_stage

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

RUNS, AT_ONCE = 50, 4
WHOLE = (3, 17, 31, 44)  # places in the queue of the runs that go through; the preflight refuses the others
DAG = f"/api/v2/dags/{demo_run.DAG_ID}"


def run_id(place: int) -> str:
    return f"queued-{place:02d}"


def conf(place: int, images: Path) -> dict[str, Any]:
    """Params that tell the run at this place from every other."""
    if place not in WHOLE:
        return {"source": f"/no/such/folder-{place:02d}"}
    number = WHOLE.index(place)
    drawn = {"source": str(images), "per_label": 2 + number, "components": 4 + number, "seed": number}
    model = {"alpha": 0.35, "weights": "random:0", "input_size": 96}
    return {"run_key": f"whole-{place:02d}", **drawn, **model, "notify": "always"}


@dataclass(frozen=True)
class Queue:
    """What became of the runs, by their ids."""

    api: Api
    stage: Stage
    listed: dict[str, dict[str, Any]]
    messages: list[dict[str, str]]
    most_at_once: int

    def xcom(self, place: int, task: str, key: str = "return_value") -> Any:
        path = f"{DAG}/dagRuns/{quote(run_id(place))}/taskInstances/{task}/xcomEntries/{key}"
        return self.api.call("GET", f"{path}?deserialize=true")["value"]

    def messages_of(self, place: int) -> list[dict[str, str]]:
        """Messages that name the run, by its key or by its id."""
        name = conf(place, Path()).get("run_key", run_id(place))
        return [message for message in self.messages if name in message["Subject"]]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with new_stage(tmp_path_factory.mktemp("queue")) as made:
        yield made


@pytest.fixture(scope="module")
def queue(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    images = tmp_path_factory.mktemp("images")
    draw_folder(images, per_label=6)
    mailbox = Mailbox(stage.aws, "runs")
    environment = stage.with_environment(
        FRUITS_SNS_TOPIC_ARN=mailbox.topic, FRUITS_MAX_ACTIVE_RUNS=str(AT_ONCE)
    ).environment
    with Components(environment, tmp_path_factory.mktemp("components")) as airflow:
        api = airflow.api
        api.until(DAG, lambda answer: "is_paused" in answer, 600)
        api.call("PATCH", f"{DAG}?update_mask=is_paused", {"is_paused": True})
        for place in range(RUNS):
            body = {"dag_run_id": run_id(place), "logical_date": None, "conf": conf(place, images)}
            api.call("POST", f"{DAG}/dagRuns", body)
        everything = f"{DAG}/dagRuns?limit=100&order_by=run_after"
        waiting = api.call("GET", everything)["dag_runs"]
        assert [run["state"] for run in waiting] == ["queued"] * RUNS
        api.call("PATCH", f"{DAG}?update_mask=is_paused", {"is_paused": False})
        counts = [0]

        def ended(answer: Any) -> bool:
            states = [run["state"] for run in answer["dag_runs"]]
            counts.append(states.count("running"))
            return len(states) == RUNS and all(state in ENDED for state in states)

        last = api.until(everything, ended, 3000)
        listed = {run["dag_run_id"]: run for run in last["dag_runs"]}
        yield Queue(api, stage, listed, mailbox.read(), max(counts))


def test_none_is_lost_and_each_ends_as_its_own_params_say(queue: Queue) -> None:
    states = {name: run["state"] for name, run in queue.listed.items()}
    assert states == {run_id(n): "success" if n in WHOLE else "failed" for n in range(RUNS)}


def test_no_more_than_allowed_run_at_once_and_in_the_order_of_the_queue(queue: Queue) -> None:
    assert 1 <= queue.most_at_once <= AT_ONCE

    def moment(place: int, name: str) -> datetime:
        return datetime.fromisoformat(queue.listed[run_id(place)][name])

    starts = [moment(place, "start_date") for place in range(RUNS)]
    ends = [moment(place, "end_date") for place in range(RUNS)]
    assert starts == sorted(starts)
    for at in starts:
        assert sum(start <= at < end for start, end in zip(starts, ends, strict=True)) <= AT_ONCE


@pytest.mark.parametrize("place", [n for n in range(RUNS) if n not in WHOLE])
def test_a_refused_run_tells_of_its_own_value_alone(queue: Queue, place: int) -> None:
    own = f"/no/such/folder-{place:02d} does not exist"
    assert own in queue.xcom(place, "preflight", "error")
    (message,) = queue.messages_of(place)
    assert own in message["Message"]
    assert message["Message"].count("/no/such/folder-") == message["Message"].count(own)


@pytest.mark.parametrize("place", WHOLE)
def test_a_whole_run_has_its_own_sample_cluster_result_and_messages(queue: Queue, place: int) -> None:
    wanted = conf(place, Path())
    key, count = wanted["run_key"], wanted["per_label"] * len(KINDS)
    kept = queue.stage.run_storage(key)
    summary = json.loads(kept.get("summary.json").to_pybytes())
    assert summary == queue.xcom(place, "summarise")
    for name in ("run_key", "per_label", "components", "seed"):
        assert summary["request"][name] == wanted[name]
    assert (summary["images"], summary["components"]) == (count, wanted["components"])
    assert json.loads(kept.get("sample/_SUCCESS").to_pybytes())["images"] == count
    cluster = queue.xcom(place, "create_cluster")
    assert cluster == summary["cluster_id"]
    emr = queue.stage.aws.client("emr")
    tags = {t["Key"]: t["Value"] for t in emr.describe_cluster(ClusterId=cluster)["Cluster"]["Tags"]}
    assert (tags[RUN_TAG], tags[DAG_RUN_TAG]) == (key, run_id(place))
    steps = emr.list_steps(ClusterId=cluster)["Steps"]
    assert len(steps) == 2
    for step in steps:
        places = [word for word in step["Config"]["Args"] if "/runs/" in word]
        assert places
        assert all(f"/runs/{key}/" in word for word in places)
    assert [message["Subject"].count(key) for message in queue.messages_of(place)] == [1, 1]


def test_there_is_nothing_but_the_whole_runs_in_bucket_and_emr(queue: Queue) -> None:
    keys = {obj.key.partition("/")[0] for obj in all_runs(queue.stage).list()}
    assert keys == {f"whole-{place:02d}" for place in WHOLE}
    clusters = queue.stage.clusters("TERMINATED", "TERMINATED_WITH_ERRORS", "RUNNING", "WAITING")
    assert sorted(cluster["Status"]["State"] for cluster in clusters) == ["TERMINATED"] * len(WHOLE)
    assert len(queue.messages) == (RUNS - len(WHOLE)) + 2 * len(WHOLE)


def test_the_results_differ_as_the_draws_do(queue: Queue) -> None:
    means = []
    for place in WHOLE:
        body = queue.stage.run_storage(conf(place, Path())["run_key"]).get("pca/model.npz").to_pybytes()
        (queue.stage.demo.work / "model.npz").write_bytes(body)
        with np.load(queue.stage.demo.work / "model.npz", allow_pickle=False) as model:
            means.append(model["mean"].tobytes())
    assert len(set(means)) == len(WHOLE)


def all_runs(stage: Stage) -> Storage:
    return stage.aws.storage(f"s3://{demo_run.BUCKET}/runs")
