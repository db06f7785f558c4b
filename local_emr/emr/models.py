"""The EMR of one region: its clusters, and what may be done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

from moto.emr.exceptions import InvalidCluster, InvalidRequestException, ValidationException
from moto.emr.models import ElasticMapReduceBackend

from local_emr.emr import events, requests
from local_emr.emr.cluster import STEP_ENDED, Cluster, Step
from local_emr.emr.lifecycle import Life, Worker


class LocalEmrBackend(ElasticMapReduceBackend):
    """Keeps moto's security configurations and release labels; clusters are ours."""

    make_worker: ClassVar[Callable[[Cluster], Worker]]
    start_seconds: ClassVar[float] = 0.0
    closing: ClassVar[bool] = False

    def __init__(self, region_name: str, account_id: str) -> None:
        super().__init__(region_name, account_id)
        self.lives: dict[str, Life] = {}

    def reset(self) -> None:
        """moto's own reset call: clusters are told to end, and forgotten.

        Not waited for: moto holds a lock that their last requests for S3 need.
        """
        for life in list(self.lives.values()):
            life.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", "Reset")
        super().reset()

    def stop(self, message: str) -> None:
        """Ends all clusters and waits until their processes are gone."""
        for life in list(self.lives.values()):
            life.end("TERMINATED_WITH_ERRORS", "INTERNAL_ERROR", message)
        for life in list(self.lives.values()):
            if life.cluster.state not in ("TERMINATED", "TERMINATED_WITH_ERRORS"):
                life.join(40)

    def restore(self, cluster: Cluster) -> None:
        """Brings back an ended cluster."""
        self.lives[cluster.id] = self._life(cluster)

    def _life(self, cluster: Cluster) -> Life:
        tell = partial(events.publish, self.account_id, self.region_name)
        return Life(cluster, type(self).make_worker(cluster), tell, start_seconds=self.start_seconds)

    def run(self, request: dict[str, Any]) -> Cluster:
        if self.closing:
            raise InvalidRequestException("The local AWS server is stopping.")
        security = request.get("SecurityConfiguration")
        if security and security not in self.security_configurations:
            raise InvalidRequestException(f"Security configuration with name '{security}' does not exist.")
        cluster = requests.cluster_from(request, self.region_name, self.account_id)
        life = self._life(cluster)
        self.lives[cluster.id] = life
        life.begin()
        return cluster

    def life(self, cluster_id: str) -> Life:
        """Raises InvalidCluster (InvalidRequestException), as DescribeCluster does."""
        if cluster_id not in self.lives:
            raise InvalidCluster(cluster_id)
        return self.lives[cluster_id]

    def flow(self, cluster_id: str) -> Life:
        """The same for the older JobFlow calls, which raise ValidationException."""
        if cluster_id not in self.lives:
            raise ValidationException("Specified job flow ID does not exist.")
        return self.lives[cluster_id]

    def modifiable(self, life: Life) -> Life:
        if life.ending:
            raise ValidationException(
                "A job flow that is shutting down, terminated, or finished may not be modified."
            )
        return life

    def add_steps(self, cluster_id: str, configs: list[dict[str, Any]]) -> list[Step]:
        life = self.flow(cluster_id)
        with life.changed:
            self.modifiable(life)
            steps = requests.steps_from(configs, life.cluster)
            life.add_steps(steps)
        return steps

    def step(self, cluster_id: str, step_id: str) -> Step:
        for step in self.life(cluster_id).cluster.steps:
            if step.id == step_id:
                return step
        raise InvalidRequestException(f"Step id '{step_id}' is not valid.")

    def cancel_steps(self, cluster_id: str, step_ids: Iterable[str], force: bool) -> list[dict[str, str]]:
        life = self.life(cluster_id)
        steps = [self.step(cluster_id, step_id) for step_id in step_ids]
        answers = []
        for step in steps:
            problem = life.cancel(step, force)
            answer = {"StepId": step.id, "Status": "FAILED" if problem else "SUBMITTED"}
            answers.append({**answer, "Reason": problem} if problem else answer)
        return answers

    def set_concurrency(self, cluster_id: str, level: int) -> None:
        requests.check_concurrency(level)
        life = self.modifiable(self.life(cluster_id))
        with life.changed:
            waiting = [s for s in life.cluster.steps if s.state not in STEP_ENDED and s.state != "RUNNING"]
            if level > 1 and any(step.action_on_failure != "CONTINUE" for step in waiting):
                raise ValidationException(
                    "StepConcurrencyLevel cannot be greater than 1: "
                    "a pending step has an ActionOnFailure other than CONTINUE."
                )
            life.update(concurrency=level)

    def terminate(self, cluster_ids: Iterable[str]) -> None:
        """Ends the clusters that are not protected; raises ValidationException when one is."""
        lives = [self.flow(cluster_id) for cluster_id in cluster_ids]
        for life in lives:
            if not life.cluster.protected:
                life.end("TERMINATED", "USER_REQUEST")
        if any(life.cluster.protected and not life.ending for life in lives):
            raise ValidationException(
                "Could not shut down one or more job flows since they are termination protected."
            )
