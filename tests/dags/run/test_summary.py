"""A run's tasks, from staging to the summary, with the cluster's steps done in this process."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fruit_pipeline import settings
from fruit_pipeline.aws import clusters as aws_clusters
from fruit_pipeline.aws.clusters import DAG_RUN_TAG
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import job_code, shapes
from fruit_pipeline.cluster.steps import EXTRACTION, REDUCTION
from fruit_pipeline.dag import tasks
from fruit_pipeline.dag.form import form
from fruit_pipeline.run import summary as summary_module
from fruit_pipeline.run.request import RunRequest
from image_features.contract import ActualCost, RunLayout, UnknownCost
from image_features.errors import Damaged, JobError
from support.instant_aws import InstantAws
from support.local_aws import BUCKET, REGION, LocalAws
from support.summaries import run_cost, run_summary
from support.waiting import eventually

# Of the images and results, of the code, of the files that a cluster is made from.
DIGESTS = (
    *("sample", "images", "model", "features", "rows", "pca", "embedder"),
    *("job_code", "extract_features.py", "reduce_pca.py", "bootstrap", "pipeline"),
    *("shape", "classifications", "prices"),
)


@pytest.fixture
def params(repo: Path, drawn_folder: Path) -> dict[str, Any]:
    defaults = {name: param.resolve() for name, param in form(shapes.descriptions(repo)).items()}
    chosen = {"source": str(drawn_folder), "weights": "random:0", "alpha": 0.35, "components": 8}
    return {**defaults, **chosen, "run_key": "summed"}


@pytest.fixture
def deployed(connection: str, monkeypatch: pytest.MonkeyPatch, random_backbone: Path, repo: Path) -> None:
    """The deployment's settings as an Airflow worker has them."""
    monkeypatch.setenv("FRUITS_BUCKET", BUCKET)
    monkeypatch.setenv("FRUITS_AWS_CONN_ID", connection)
    monkeypatch.setenv("FRUITS_CACHE_DIR", str(random_backbone.parents[1]))


@pytest.mark.usefixtures("deployed")
def test_a_run_is_summed_up_from_what_its_tasks_and_steps_did(
    params: dict[str, Any], standing_run: Path, clusters: InstantAws, repo: Path
) -> None:
    run = tasks.preflight(params, "manual__1")
    assert json.loads(json.dumps(run)) == run
    model = tasks.export_backbone(run)
    assert model["width"] == 1280
    root = f"runs/{run['run_key']}"
    for file in standing_run.rglob("*"):  # what sample task and steps write
        if file.is_file():
            clusters.put(f"{root}/{file.relative_to(standing_run).as_posix()}", file.read_bytes())
    checks = tasks.check_output(run)

    cluster_id = clusters.run(name="summary")
    gate = threading.Event()
    steps = [
        clusters.script(EXTRACTION, gate=gate),
        clusters.script("a step that failed", exit_code=1),
        clusters.script(REDUCTION),
    ]
    ids = clusters.emr.add_job_flow_steps(JobFlowId=cluster_id, Steps=steps)["StepIds"]
    eventually(lambda: clusters.step_state(cluster_id, ids[0]) == "RUNNING")
    time.sleep(0.3)
    gate.set()
    eventually(lambda: clusters.step_state(cluster_id, ids[-1]) == "COMPLETED")

    parts = {
        "sample": {"seconds": 1.5},
        "model": model,
        "code": {"seconds": 2.5, "wheel_bytes": 105_000_000, "digests": job_code.digests(repo)},
        "checks": checks,
        "estimate": asdict(run_cost(0.3, None).estimate),
    }
    built = tasks.summarise(run, cluster_id, parts)
    body = clusters.s3.get_object(Bucket=BUCKET, Key=f"{root}/summary.json")["Body"].read()
    assert summary_module.from_json(body, "summary.json") == built
    summary = json.loads(body)
    assert (summary["images"], summary["features"], summary["rejects"]) == (50, 48, 2)
    assert summary["weights_are_random"] is True
    assert (summary["input_size"], summary["precision"], summary["quality"]) == (224, "float32", {})
    assert summary["request"] == run
    assert summary["places"]["embeddings"] == f"s3://{BUCKET}/{root}/pca"
    seconds = summary["seconds"]
    assert list(seconds) == ["sample", "model", "code", "cluster start", EXTRACTION, REDUCTION, "checks"]
    assert seconds[EXTRACTION] >= 0.3
    nodes = {"python", "numpy", "pillow", "ai-edge-litert", "spark", "java"}
    assert nodes | {"keras", "tensorflow", "emr", "airflow"} <= set(summary["versions"])
    assert {name: len(digest) for name, digest in summary["digests"].items()} == dict.fromkeys(DIGESTS, 64)
    shape = (repo / "emr_configs" / f"{run['shape']}.json").read_bytes()
    assert summary["digests"]["shape"] == hashlib.sha256(shape).hexdigest()
    cost = summary["cost"]
    assert cost["estimate"] == parts["estimate"]
    assert cost["by_the_clock"]["ended"] is False, "nobody terminated it"
    assert cost["by_the_clock"]["total_usd"] > 0


@pytest.mark.usefixtures("deployed")
def test_the_actual_cost_is_that_of_the_clusters_whole_lifetime(
    params: dict[str, Any], clusters: InstantAws
) -> None:
    request = RunRequest.from_dict(tasks.preflight(params, "manual__1"))
    aws = Aws.of_deployment(settings.load())
    cluster_id = clusters.run(name="whole life")
    clusters.emr.terminate_job_flows(JobFlowIds=[cluster_id])
    cost = summary_module.cluster_cost(request, aws, cluster_id)
    assert isinstance(cost, ActualCost)
    assert cost.ended


@pytest.mark.usefixtures("deployed")
def test_a_cost_that_cannot_be_known_does_not_fail_a_run_that_is_through(params: dict[str, Any]) -> None:
    request = RunRequest.from_dict(tasks.preflight(params, "manual__1"))
    aws = Aws.of_deployment(settings.load())
    cost = summary_module.cluster_cost(request, aws, "j-NOSUCHCLUSTER")
    assert isinstance(cost, UnknownCost)
    assert cost.unknown.startswith("the cluster's cost: ")


@pytest.mark.usefixtures("deployed")
def test_staging_puts_into_the_bucket_what_the_plan_names(
    params: dict[str, Any], local_aws: LocalAws
) -> None:
    asked = {"run_key": "planned", "per_label": 2, "max_reject_rate": 0.2}
    run = tasks.preflight({**params, **asked}, "manual__1")
    sample = tasks.draw_sample(run)
    assert (sample["images"], sample["labels"]) == (24, 12)
    exported = tasks.export_backbone(run)
    model = tasks.quantise(run, exported)
    assert model == exported, "float32 is what was asked for"
    code = {"bootstrap": f"s3://{BUCKET}/runs/planned/code/install.sh", "wheelhouse": f"s3://{BUCKET}/w/1"}
    plan = tasks.plan_cluster(run, sample, model, code)
    assert json.loads(json.dumps(plan)) == plan
    tags = {tag["Key"]: tag["Value"] for tag in plan["cluster"]["Tags"]}
    assert (tags[aws_clusters.RUN_TAG], tags[DAG_RUN_TAG]) == ("planned", "manual__1")
    words = [word for name in ("extraction", "reduction") for word in plan[name][0]["HadoopJarStep"]["Args"]]
    assert f"s3://{BUCKET}/runs/planned/sample" in words
    assert model["uri"] in words
    assert words[words.index("--max-reject-rate") + 1] == "0.2"
    assert "backbone.tflite" in local_aws.keys(model["uri"].removeprefix(f"s3://{BUCKET}/"))
    assert {"_SUCCESS", "manifest.parquet"} <= set(local_aws.keys("runs/planned/sample"))


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("name", ["manifest.parquet", "shard-00000.parquet"])
def test_a_damaged_sample_is_drawn_again_after_the_quantising_has_met_it(
    params: dict[str, Any], aws: Aws, name: str
) -> None:
    asked = {"run_key": f"damaged-{name[:5]}", "per_label": 3}
    # With random weights no preflight lets int8 pass; the sample is read before the weights matter.
    run = {**tasks.preflight({**params, **asked}, "manual__1"), "precision": "int8"}
    tasks.draw_sample(run)
    sample = aws.storage(RunLayout(f"s3://{BUCKET}/runs/{run['run_key']}").sample)
    whole = sample.get(name).to_pybytes()
    sample.put(name, whole[:-30])
    with pytest.raises(Damaged, match=rf"{name}.*_SUCCESS of sample was deleted"):
        tasks.quantise(run, {"uri": "unused", "width": 1280, "seconds": 0.0})
    tasks.draw_sample(run)
    assert sample.get(name).to_pybytes() == whole


CODE = {"bootstrap": "s3://b-1/code/install.sh", "wheelhouse": "s3://b-1/wheels/1"}
MODEL = {"width": 1280, "uri": "s3://b-1/models/1"}


@pytest.mark.usefixtures("deployed")
def test_the_plan_shows_the_estimate_in_its_log_and_its_result_and_sets_the_limits(
    params: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = tasks.preflight(params, "manual__1")
    with caplog.at_level(logging.INFO, "fruit_pipeline.dag.tasks"):
        plan = tasks.plan_cluster(run, {"images": 67_692, "bytes": 400_000_000}, MODEL, CODE)
    assert plan["estimate"]["images"] == 67_692
    expected = plan["estimate"]["expected"]
    assert f"{expected['total_usd']:.2f} USD" in caplog.text
    assert plan["extraction_limit"] == round(3 * expected["seconds"]["extract features"] + 900)
    assert plan["reduction_limit"] == round(3 * expected["seconds"]["reduce with PCA"] + 900)
    assert plan["start_limit"] > 900
    larger = tasks.plan_cluster(run, {"images": 67_692, "bytes": 67_692 * 3_000_000}, MODEL, CODE)
    assert larger["extraction_limit"] > plan["extraction_limit"], "large files take longer"


@pytest.mark.usefixtures("deployed")
def test_a_sample_that_is_too_dear_is_refused_before_a_cluster_is_made(
    params: dict[str, Any], local_aws: LocalAws
) -> None:
    run = tasks.preflight({**params, "max_cost_usd": 0.1}, "manual__1")
    before = local_aws.alive()
    with pytest.raises(
        JobError, match=r"too expensive: 67,692 images on small cost .* above max_cost_usd 0\.10"
    ):
        tasks.plan_cluster(run, {"images": 67_692, "bytes": 400_000_000}, MODEL, CODE)
    assert local_aws.alive() == before


@pytest.mark.usefixtures("deployed")
def test_a_cluster_of_another_dag_run_that_came_to_life_since_the_preflight_is_seen_by_the_plan(
    params: dict[str, Any], clusters: InstantAws
) -> None:
    run = tasks.preflight({**params, "run_key": "raced"}, "manual__1")
    sample = {"images": 100, "bytes": 600_000}
    own = clusters.run(
        name=aws_clusters.name_of("raced"), tags={aws_clusters.RUN_TAG: "raced", DAG_RUN_TAG: "manual__1"}
    )
    assert tasks.plan_cluster(run, sample, MODEL, CODE)["cluster"], "a retry after the cluster was made"
    other = clusters.run(
        name=aws_clusters.name_of("raced"), tags={aws_clusters.RUN_TAG: "raced", DAG_RUN_TAG: "manual__2"}
    )
    assert own != other
    with pytest.raises(JobError, match=f"cluster {other} of run raced is alive, made by DAG run manual__2"):
        tasks.plan_cluster(run, sample, MODEL, CODE)


@pytest.mark.usefixtures("deployed")
def test_more_components_than_the_sample_has_images_are_refused_before_a_cluster_starts(
    params: dict[str, Any],
) -> None:
    run = tasks.preflight({**params, "components": 50}, "manual__1")
    with pytest.raises(JobError, match="50 components asked for, but 24 images of 1280 features"):
        tasks.plan_cluster(run, {"images": 24}, {"width": 1280, "uri": "s3://b/m"}, {})


def test_tasks_need_no_connection_when_the_environment_reaches_aws(
    params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, s3_environment: None
) -> None:
    monkeypatch.setenv("FRUITS_BUCKET", BUCKET)
    monkeypatch.setenv("FRUITS_REGION", REGION)
    assert tasks.preflight(params, "manual__1")["bucket"] == BUCKET


# The document


def test_a_summary_is_read_as_it_was_written() -> None:
    for summary in (run_summary(), run_summary(cost=run_cost(1.0, None))):
        assert summary_module.from_json(summary_module.to_json(summary), "summary.json") == summary
        assert summary_module.from_values(asdict(summary)) == summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("cost"), "cost: Field required"),
        (lambda values: values.update(cost=None), "cost: "),
        (lambda values: values["cost"].update(by_the_clock="much"), "cost.by_the_clock"),
        (lambda values: values.update(images="many"), "images: Input should be a valid integer"),
    ],
)
def test_what_is_no_summary_is_refused_with_the_field(change: Callable[[Any], Any], message: str) -> None:
    values = asdict(run_summary())
    change(values)
    with pytest.raises(JobError, match=r"^s3://b/summary\.json is not a run's summary; delete it") as refused:
        summary_module.from_json(json.dumps(values).encode(), "s3://b/summary.json")
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", "no JSON"])
def test_other_json_is_no_summary(text: str) -> None:
    with pytest.raises(JobError, match="is not a run's summary"):
        summary_module.from_json(text.encode(), "summary.json")
