"""
### Images to compact feature vectors, on an EMR cluster that exists only during the run

Draws a sample of a folder or bucket of images, extracts MobileNetV2 or ResNet50 features on a transient EMR
cluster, reduces them with an exact PCA, and checks every row of the result. The cluster is terminated
however the run ends.

**Results**, below `s3://<bucket>/runs/<run key>/`. A prefix is complete when it has a `_SUCCESS`.

| prefix or object | content |
|---|---|
| `features/` | one row per image: image, label, sha256, features |
| `rejects/` | images that could not be decoded, with the reason |
| `pca/` | one row per image: image, label, embedding; and the models `model.npz` and `embed.tflite` |
| `summary.json` | counts, quality, cost and versions of the run |
| `report.html` | all of it on one page |

**Cost**: the cluster, from `create_cluster` to `terminate_cluster`; the description of the Param `shape`
gives its size. `plan_cluster` logs and returns an estimate, and refuses a run that may cost more than
`max_cost_usd`. `summary.json` has the estimate and the actual cost. A step is cancelled when it has run for
three times its estimate and 15 minutes. An idle cluster ends after the shape's idle timeout, even if Airflow
is gone.

**Follow-up**: the assets `fruit_features` and `fruit_embeddings` are updated after the checks have passed.
Each event has the run key, the URI and number of the rows, and for the embeddings the variance kept.

**When a run fails**: read the last lines of the failed task's log. They name the file or value at fault, or
the log of the step. Then clear the failed task, or trigger again with `run_key` set to this run's key.
Finished shards are reused, and the result is the same as without the failure.

**Two runs at once**: a second run waits in the queue until the first has ended (`FRUITS_MAX_ACTIVE_RUNS`
allows more). Two runs with the same `run_key` must not overlap: a run is refused while a cluster of the
other is alive.

**Schedule**: `FRUITS_SCHEDULE` is a cron expression in the time zone `FRUITS_TIME_ZONE`. Of the times that
passed while this DAG was paused, at most the last is made up for. Scheduled runs and backfills use the
Params of the file `FRUITS_SCHEDULE_PARAMS`, and the form's defaults for the rest; a run that you trigger
uses the form only. The run key is made from the run id, so clearing the tasks of a scheduled run *resumes*
it: finished work is kept, missing work is computed. To *replace* a result, trigger a run with the same
Params and no `run_key`, or a new one.

**Messages**: the subscribers of `FRUITS_SNS_TOPIC_ARN` are notified when the cluster is ready and when the
run has ended. The Param `notify` limits that to failures, or to nothing.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from airflow.sdk import chain, dag, get_current_context, task, task_group

from fruit_pipeline import settings
from fruit_pipeline.cluster import shapes
from fruit_pipeline.dag import assets, form, schedule, tasks
from fruit_pipeline.dag.errors import fail_on_bad_input
from fruit_pipeline.dag.operators import AddStepOnce, CreateClusterOnce, MakeReport, TerminateClusters
from fruit_pipeline.dag.sensors import ClusterReady, StepDone
from fruit_pipeline.notify import messages

DEPLOYMENT = settings.load()
# Five retries take a quarter of an hour, because a cluster is running meanwhile: throttling may end in time.
AWS = {"aws_conn_id": DEPLOYMENT.aws_conn_id, "region_name": DEPLOYMENT.region, "retries": 5}
POLL = {"poke_interval": DEPLOYMENT.poll_seconds}
FORM = form.form(shapes.descriptions(DEPLOYMENT.home), DEPLOYMENT.source, DEPLOYMENT.weights)
SCHEDULED = schedule.scheduled_params(DEPLOYMENT, FORM)
ASSETS = assets.outlets(DEPLOYMENT.bucket)


@dag(
    description="Images to compact feature vectors, on an EMR cluster that lives as long as the run",
    schedule=schedule.timetable(DEPLOYMENT),
    # Without a schedule no run starts by itself, so the DAG need not be unpaused before the first trigger.
    is_paused_upon_creation=DEPLOYMENT.schedule is not None,
    catchup=False,
    max_active_runs=DEPLOYMENT.max_active_runs,
    doc_md=f"{__doc__}{schedule.doc_note(DEPLOYMENT, SCHEDULED)}",
    tags=["emr", "features"],
    params=FORM,
    render_template_as_native_obj=True,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        "retry_exponential_backoff": True,
        "on_failure_callback": messages.store_error,
    },
)
def fruit_features() -> None:
    @task
    @fail_on_bad_input
    def preflight() -> dict[str, Any]:
        context = get_current_context()
        return tasks.preflight(schedule.params_of_run(context, SCHEDULED), context["run_id"])

    @task
    @fail_on_bad_input
    def draw_sample(run: dict[str, Any]) -> dict[str, Any]:
        return tasks.draw_sample(run)

    @task
    @fail_on_bad_input
    def export_backbone(run: dict[str, Any]) -> dict[str, Any]:
        return tasks.export_backbone(run)

    @task
    @fail_on_bad_input
    def quantise(run: dict[str, Any], sample: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
        del sample  # only for the order: int8 is calibrated on the images of the sample
        return tasks.quantise(run, model)

    @task
    @fail_on_bad_input
    def upload_code(run: dict[str, Any]) -> dict[str, Any]:
        return tasks.upload_code(run)

    @task(multiple_outputs=True)
    @fail_on_bad_input
    def plan_cluster(
        run: dict[str, Any], sample: dict[str, Any], model: dict[str, Any], code: dict[str, Any]
    ) -> dict[str, Any]:
        return tasks.plan_cluster(run, sample, model, code)

    @task
    @fail_on_bad_input
    def check_output(run: dict[str, Any]) -> dict[str, Any]:
        return tasks.check_output(run)

    @task(outlets=ASSETS)
    @fail_on_bad_input
    def summarise(run: dict[str, Any], cluster_id: str, parts: dict[str, Any]) -> dict[str, Any]:
        summary = tasks.summarise(run, cluster_id, parts)
        assets.fill_events(get_current_context()["outlet_events"], ASSETS, summary)
        return asdict(summary)

    @task
    def notify_cluster_ready(run: dict[str, Any], cluster_id: str) -> None:
        messages.notify_cluster_ready(run, cluster_id)

    @task
    def notify_run_ended(run: dict[str, Any] | None) -> None:
        context = get_current_context()
        notify = schedule.params_of_run(context, SCHEDULED)["notify"]
        messages.notify_run_ended(run, notify, context["ti"])

    run = preflight()

    @task_group
    def stage() -> tuple[Any, Any, Any]:
        return draw_sample(run), export_backbone(run), upload_code(run)

    sample, exported, code = stage()
    model = quantise(run, sample, exported)
    plan = plan_cluster(run, sample, model, code)

    create_cluster = CreateClusterOnce(
        task_id="create_cluster",
        job_flow_overrides=plan["cluster"],
        waiter_delay=DEPLOYMENT.poll_seconds,
        **AWS,
    )
    cluster_id = create_cluster.output

    # The step is added while the cluster starts, so that it begins as soon as the cluster is ready.
    add_extraction = AddStepOnce(
        task_id="add_extraction", job_flow_id=cluster_id, steps=plan["extraction"], **AWS
    )
    cluster_ready = ClusterReady(
        task_id="cluster_ready", job_flow_id=cluster_id, limit_seconds=plan["start_limit"], **POLL, **AWS
    )
    wait_for_extraction = StepDone(
        task_id="wait_for_extraction",
        job_flow_id=cluster_id,
        step_id="{{ ti.xcom_pull('add_extraction')[0] }}",
        limit_seconds=plan["extraction_limit"],
        stage="extraction",
        run_uri=plan["run_uri"],
        **POLL,
        **AWS,
    )
    add_pca = AddStepOnce(task_id="add_pca", job_flow_id=cluster_id, steps=plan["reduction"], **AWS)
    wait_for_pca = StepDone(
        task_id="wait_for_pca",
        job_flow_id=cluster_id,
        step_id="{{ ti.xcom_pull('add_pca')[0] }}",
        limit_seconds=plan["reduction_limit"],
        stage="pca",
        run_uri=plan["run_uri"],
        **POLL,
        **AWS,
    )
    terminate_cluster = TerminateClusters(
        task_id="terminate_cluster",
        run_key=run["run_key"],
        job_flow_id="{{ ti.xcom_pull('create_cluster') or '' }}",
        waiter_delay=DEPLOYMENT.poll_seconds,
        waiter_max_attempts=1800 // DEPLOYMENT.poll_seconds,
        **AWS,
    )
    checks = check_output(run)
    parts = {
        "sample": sample,
        "model": model,
        "code": code,
        "checks": checks,
        "estimate": plan["estimate"],
    }

    chain(create_cluster, add_extraction, cluster_ready, wait_for_extraction, add_pca, wait_for_pca)
    # The checks need no cluster, and run while it terminates.
    chain(wait_for_pca, [checks, terminate_cluster])
    summary = summarise(run, cluster_id, parts)
    chain(checks, summary)
    # A missing report would go unnoticed, so it fails the run; the results are kept.
    report = MakeReport(task_id="make_report", run=run)
    chain(summary, report)
    # The plan is a setup too, so that the teardown also runs when `create_cluster` fails after creating one.
    # A failed teardown may leave a cluster that costs money, so it fails the run.
    terminate_cluster.as_teardown(setups=[plan, create_cluster], on_failure_fail_dagrun=True)

    ready = notify_cluster_ready(run, cluster_id)
    chain(cluster_ready, ready)
    # The last task, when it is known whether the cluster has ended. As a teardown it runs whatever happened,
    # and leaves the state of the run to `make_report` and `terminate_cluster`.
    ended = notify_run_ended(run)
    chain([ready, report, terminate_cluster], ended)
    ended.as_teardown()


fruit_features()
