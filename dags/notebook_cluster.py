"""
### A cluster with JupyterHub, for one day at most

Creates a cluster of a notebook shape, waits until it is ready, and gives the commands that connect to its
JupyterHub: `notify_how_to_connect` logs them and sends them to the topic. The cluster ends when its owner
terminates it, when it has been idle for the shape's idle timeout, or at the time `until`, whichever comes
first. Notebooks are saved in the bucket.

**Cost**: the cluster, from `create_cluster` until it ends. A tag carries the end, so that the reaper can end
the cluster if Airflow is gone.

**When a run fails**: read the last lines of the failed task's log, then trigger again. An owner may have one
cluster at a time: a second one is refused while the first is alive.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import chain, dag, get_current_context, task

from fruit_pipeline import settings
from fruit_pipeline.cluster import shapes
from fruit_pipeline.dag import form
from fruit_pipeline.dag.errors import fail_on_bad_input
from fruit_pipeline.dag.operators import CreateClusterOnce, TerminateClusters
from fruit_pipeline.dag.sensors import ClusterEnded, ClusterReady
from fruit_pipeline.notebook_cluster import connect, plan

DEPLOYMENT = settings.load()
AWS = {"aws_conn_id": DEPLOYMENT.aws_conn_id, "region_name": DEPLOYMENT.region}
POLL = {"poke_interval": DEPLOYMENT.poll_seconds, "max_attempts": 2 * 3600 // DEPLOYMENT.poll_seconds}
SHAPES = shapes.descriptions(DEPLOYMENT.home, shapes.NOTEBOOKS)


@dag(
    schedule=None,
    catchup=False,
    doc_md=__doc__,
    tags=["emr", "notebooks"],
    params=form.airflow_params(plan.param_specs(SHAPES, DEPLOYMENT.owner, DEPLOYMENT.time_zone)),
    render_template_as_native_obj=True,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": True},
)
def notebook_cluster() -> None:
    @task(multiple_outputs=True)
    @fail_on_bad_input
    def plan_cluster() -> dict[str, Any]:
        return plan.plan(get_current_context()["params"])

    @task
    def notify_how_to_connect(planned: dict[str, Any], cluster_id: str) -> str:
        return connect.notify_how_to_connect(planned, cluster_id)

    @task
    def ended(state: str) -> str:
        return state

    planned = plan_cluster()
    create_cluster = CreateClusterOnce(
        task_id="create_cluster",
        job_flow_overrides=planned["cluster"],
        waiter_delay=DEPLOYMENT.poll_seconds,
        **AWS,
    )
    cluster_id = create_cluster.output
    cluster_ready = ClusterReady(task_id="cluster_ready", job_flow_id=cluster_id, **POLL, **AWS)
    wait_for_end = ClusterEnded(
        task_id="wait_for_end",
        job_flow_id=cluster_id,
        until=planned["until"],
        poke_interval=15 * DEPLOYMENT.poll_seconds,
        **AWS,
    )
    terminate_cluster = TerminateClusters(
        task_id="terminate_cluster",
        run_key=planned["run_key"],
        job_flow_id="{{ ti.xcom_pull('create_cluster') or '' }}",
        waiter_delay=DEPLOYMENT.poll_seconds,
        waiter_max_attempts=1800 // DEPLOYMENT.poll_seconds,
        retries=5,
        **AWS,
    )
    chain(create_cluster, cluster_ready, notify_how_to_connect(planned, cluster_id), wait_for_end)
    # If `terminate_cluster` were the only last task, it alone would decide the run's state, and hide earlier
    # failures. `ended` is a second last task, which does not succeed after a failure.
    chain(wait_for_end, [ended(wait_for_end.output), terminate_cluster])
    terminate_cluster.as_teardown(setups=[planned, create_cluster], on_failure_fail_dagrun=True)


notebook_cluster()
