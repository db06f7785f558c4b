"""EMR in one region of one account: its clusters, and the operations on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from moto.emr.exceptions import InvalidCluster, InvalidRequestException, ValidationException
from moto.emr.models import ElasticMapReduceBackend

from local_emr.emr import events, requests
from local_emr.emr.cluster import ENDED, STEP_ENDED, Cluster, Step
from local_emr.emr.lifecycle import ClusterLifecycle, Worker


class LocalEmrBackend(ElasticMapReduceBackend):
    """moto's EMR, of which security configurations and release labels remain; clusters run with a Worker.

    The class variables belong to the server that runs in this process: moto creates backends itself.
    """

    make_worker: ClassVar[Callable[[Cluster], Worker]]
    closing: ClassVar[bool] = False

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.lifecycles: dict[str, ClusterLifecycle] = {}

    def reset(self) -> None:
        """Requests the end of all clusters and forgets them: moto's own reset.

        It does not wait for the end: moto holds a lock that the last requests of a cluster to S3 need.
        """
        self._end_all("Reset")
        super().reset()

    def stop(self, message: str) -> None:
        """Ends all clusters and waits until their processes have ended."""
        for lifecycle in self._end_all(message):
            if lifecycle.cluster.state not in ENDED:
                lifecycle.join(40)

    def _end_all(self, message: str) -> list[ClusterLifecycle]:
        lifecycles = list(self.lifecycles.values())
        for lifecycle in lifecycles:
            lifecycle.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", message)
        return lifecycles

    def restore(self, cluster: Cluster) -> None:
        """Adds a cluster that has ended."""
        self.lifecycles[cluster.id] = self._lifecycle_of(cluster)

    def _lifecycle_of(self, cluster: Cluster) -> ClusterLifecycle:
        publish = partial(events.publish, self.account_id, self.region_name)
        return ClusterLifecycle(cluster, type(self).make_worker(cluster), publish)

    def run_cluster(self, request: dict[str, Any]) -> Cluster:
        """A new cluster, which has begun. Raises InvalidRequestException or ValidationException."""
        if self.closing:
            raise InvalidRequestException("The local AWS server is stopping.")
        security = request.get("SecurityConfiguration")
        if security and security not in self.security_configurations:
            raise InvalidRequestException(f"Security configuration with name '{security}' does not exist.")
        cluster = requests.cluster_from(request, self.region_name, self.account_id)
        lifecycle = self._lifecycle_of(cluster)
        self.lifecycles[cluster.id] = lifecycle
        lifecycle.begin()
        return cluster

    def lifecycle(self, cluster_id: str) -> ClusterLifecycle:
        """Raises InvalidCluster (InvalidRequestException), as DescribeCluster does."""
        if cluster_id not in self.lifecycles:
            raise InvalidCluster(cluster_id)
        return self.lifecycles[cluster_id]

    def job_flow(self, cluster_id: str) -> ClusterLifecycle:
        """The same for the older JobFlow operations, which raise ValidationException."""
        if cluster_id not in self.lifecycles:
            raise ValidationException("Specified job flow ID does not exist.")
        return self.lifecycles[cluster_id]

    def require_alive(self, lifecycle: ClusterLifecycle) -> ClusterLifecycle:
        """Raises ValidationException when the cluster ends or has ended."""
        if lifecycle.ending:
            raise ValidationException(
                "A job flow that is shutting down, terminated, or finished may not be modified."
            )
        return lifecycle

    def add_steps(self, cluster_id: str, configs: list[dict[str, Any]]) -> list[Step]:
        lifecycle = self.job_flow(cluster_id)
        with lifecycle.changed:
            self.require_alive(lifecycle)
            steps = requests.steps_from(configs, lifecycle.cluster)
            lifecycle.add_steps(steps)
        return steps

    def step(self, cluster_id: str, step_id: str) -> Step:
        for step in self.lifecycle(cluster_id).cluster.steps:
            if step.id == step_id:
                return step
        raise InvalidRequestException(f"Step id '{step_id}' is not valid.")

    def cancel_steps(self, cluster_id: str, step_ids: Iterable[str], force: bool) -> list[dict[str, str]]:
        """The CancelStepsInfoList."""
        lifecycle = self.lifecycle(cluster_id)
        steps = [self.step(cluster_id, step_id) for step_id in step_ids]
        infos = []
        for step in steps:
            reason = lifecycle.cancel(step, force)
            info = {"StepId": step.id, "Status": "FAILED" if reason else "SUBMITTED"}
            infos.append({**info, "Reason": reason} if reason else info)
        return infos

    def set_concurrency(self, cluster_id: str, level: int) -> None:
        requests.check_concurrency(level)
        lifecycle = self.require_alive(self.lifecycle(cluster_id))
        with lifecycle.changed:
            waiting = [s for s in lifecycle.cluster.steps if s.state not in (*STEP_ENDED, "RUNNING")]
            if level > 1 and any(step.action_on_failure != "CONTINUE" for step in waiting):
                raise ValidationException(
                    "StepConcurrencyLevel cannot be greater than 1: "
                    "a pending step has an ActionOnFailure other than CONTINUE."
                )
            lifecycle.update(concurrency=level)

    def terminate(self, cluster_ids: Iterable[str]) -> None:
        """Ends the clusters that are not protected; raises ValidationException when one is protected."""
        lifecycles = [self.job_flow(cluster_id) for cluster_id in cluster_ids]
        for lifecycle in lifecycles:
            if not lifecycle.cluster.protected:
                lifecycle.end("TERMINATED", "USER_REQUEST")
        if any(lifecycle.cluster.protected and not lifecycle.ending for lifecycle in lifecycles):
            raise ValidationException(
                "Could not shut down one or more job flows since they are termination protected."
            )
