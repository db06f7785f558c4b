"""
### Images to compact feature vectors, on a cluster that lives as long as the run

Draws a sample of a folder or bucket of images, extracts MobileNetV2 or ResNet50 features on a
transient EMR cluster, reduces them with an exact PCA, checks every row, and terminates the cluster
whatever happened.

**What comes out**, below `s3://<bucket>/runs/<run key>/`: `features/` (image, label, sha256,
features), `rejects/` (images that do not decode, with the reason), `pca/` (image, label,
embedding; `model.npz` with scikit-learn's names; `embed.tflite`, which turns an image into its
embedding), `summary.json`, `report.html` (all of it to look at, in one file). A prefix is complete when
its `_SUCCESS` is there.

**What it costs**: the cluster, from `create_cluster` to `terminate_cluster`; the shape's
description says its size. `plan_cluster` shows the estimate in its log and its return value, and
refuses a run that may cost more than `max_cost_usd`; `summary.json` holds the estimate beside the
cost by the cluster's clock. A step that takes three times its estimate and 15 minutes is cancelled.
An idle cluster ends itself after the shape's idle timeout, also when Airflow is gone.

**What can follow**: the assets `fruit_features` and `fruit_embeddings` are updated once the checks have
passed. Each event tells the run's key, where its rows lie, how many there are, and the variance kept.

**When it fails**: read the failed task's last lines: they name the file or value, or the step's
log. Then clear the failed task, or trigger again with `run_key` set to this run's key. Shards
that stand are not computed again, and the result is that of an undisturbed run.

**Two at once**: a second run waits in the queue until the first has ended (`FRUITS_MAX_ACTIVE_RUNS`
allows more). Two runs of one `run_key` must not overlap: one is refused while a cluster that the other
made is alive.

**By the clock**: `FRUITS_SCHEDULE` is a cron expression in `FRUITS_TIME_ZONE`; of the times that passed
while this DAG was paused, the last at most is made up for. Scheduled runs and backfills take the Params
of the file `FRUITS_SCHEDULE_PARAMS` in place of the form's defaults; a run that you trigger takes the form
as you leave it. The run key is made from the run id, so clearing the tasks of a scheduled run *resumes*
that date: what stands is kept, what is missing is computed. To *replace* a result, trigger a run with the
same Params and no `run_key`, or a new one.

**Who is told**: the subscribers of `FRUITS_SNS_TOPIC_ARN`, when the cluster is ready and how the run
ended; the Param `notify` limits that to failures, or to nothing.
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
# What may pass, such as throttling, is tried again for a quarter of an hour: a cluster hangs on it.
AWS = {"aws_conn_id": DEPLOYMENT.aws_conn_id, "region_name": DEPLOYMENT.region, "retries": 5}
POLL = {"poke_interval": DEPLOYMENT.poll_seconds}
FORM = form.form(shapes.descriptions(DEPLOYMENT.home), DEPLOYMENT.source, DEPLOYMENT.weights)
SCHEDULED = schedule.scheduled_params(DEPLOYMENT, FORM)
ASSETS = assets.outlets(DEPLOYMENT.bucket)


@dag(
    description="Images to compact feature vectors, on an EMR cluster that lives as long as the run",
    schedule=schedule.timetable(DEPLOYMENT),
    # Without a schedule nothing runs unasked: the first trigger need not be preceded by a click.
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
        "on_failure_callback": messages.remember_error,
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
        del sample  # must have been drawn: int8 is calibrated on its images
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
        assets.tell(get_current_context()["outlet_events"], ASSETS, summary)
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

    # Added while the cluster starts: it then begins the moment it can.
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
    # The checks need no cluster: they run while it ends.
    chain(wait_for_pca, [checks, terminate_cluster])
    summary = summarise(run, cluster_id, parts)
    chain(checks, summary)
    # A report that cannot be made fails the run, for nobody would miss it else. The results stand.
    report = MakeReport(task_id="make_report", run=run)
    chain(summary, report)
    # The plan is a setup too: a cluster whose creation failed half-way is then terminated as well.
    # A teardown that fails leaves a cluster that costs money: the run must not look well.
    terminate_cluster.as_teardown(setups=[plan, create_cluster], on_failure_fail_dagrun=True)

    ready = notify_cluster_ready(run, cluster_id)
    chain(cluster_ready, ready)
    # Told last, when it is known whether the cluster has ended. As a teardown that does not count it
    # runs whatever happened, and leaves it to `make_report` and `terminate_cluster` to decide the run.
    ended = notify_run_ended(run)
    chain([ready, report, terminate_cluster], ended)
    ended.as_teardown()


fruit_features()
