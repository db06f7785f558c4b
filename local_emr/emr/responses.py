"""EMR's API actions. moto finds each by its name in snake case and writes the answer."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, ClassVar

from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.emr.exceptions import InvalidRequestException, ValidationException
from moto.emr.responses import ElasticMapReduceResponse

from local_emr.emr import requests
from local_emr.emr.models import LocalEmrBackend

PAGE = 50  # EMR's page size


class LocalEmrResponse(ElasticMapReduceResponse):
    # Ours are plain dicts with the API's own names: no rewriting of answers.
    RESPONSE_KEY_PATH_TO_TRANSFORMER: ClassVar[dict[str, Any]] = {}

    def get_region_from_url(self, request: Any, full_url: str) -> str:
        """The region that the request is signed for; moto's EMR looks at the host name only."""
        return BaseResponse.get_region_from_url(self, request, full_url)

    @property
    def emr(self) -> LocalEmrBackend:
        return self.backend

    @property
    def request_data(self) -> dict[str, Any]:
        """The request as it was sent; moto's parser changes the names in it."""
        return json.loads(self.body or "{}")

    def _ask(self, name: str) -> Any:
        """A member of the request that must be there."""
        value = self.request_data.get(name)
        if value is None:
            raise ValidationException(f"{name} is required.")
        return value

    def _page(self, result_key: str, items: list[Any]) -> ActionResult:
        """Marker holds where the next page begins, so that pages work without state."""
        marker = self.request_data.get("Marker")
        try:
            start = int(base64.b64decode(marker, validate=True)) if marker else 0
        except (ValueError, binascii.Error) as error:
            raise InvalidRequestException("Marker is not valid.") from error
        result: dict[str, Any] = {result_key: items[start : start + PAGE]}
        if start + PAGE < len(items):
            result["Marker"] = base64.b64encode(str(start + PAGE).encode()).decode()
        return ActionResult(result)

    # Clusters

    def run_job_flow(self) -> ActionResult:
        cluster = self.emr.run(self.request_data)
        return ActionResult({"JobFlowId": cluster.id, "ClusterArn": cluster.arn})

    def describe_cluster(self) -> ActionResult:
        return ActionResult({"Cluster": self.emr.life(self._ask("ClusterId")).cluster.describe()})

    def list_clusters(self) -> ActionResult:
        """Newest first."""
        data = self.request_data
        states = data.get("ClusterStates")
        after, before = data.get("CreatedAfter", 0), data.get("CreatedBefore", float("inf"))
        clusters = [life.cluster for life in list(self.emr.lives.values())]
        wanted = [c for c in clusters if (not states or c.state in states) and after <= c.created <= before]
        wanted.sort(key=lambda c: c.created, reverse=True)
        return self._page("Clusters", [c.summary() for c in wanted])

    def modify_cluster(self) -> ActionResult:
        cluster_id, level = self._ask("ClusterId"), self.request_data.get("StepConcurrencyLevel")
        if level is not None:
            self.emr.set_concurrency(cluster_id, level)
        return ActionResult({"StepConcurrencyLevel": self.emr.life(cluster_id).cluster.concurrency})

    def terminate_job_flows(self) -> ActionResult:
        self.emr.terminate(self._ask("JobFlowIds"))
        return EmptyResult()

    def set_termination_protection(self) -> ActionResult:
        return self._set_all(protected=self._ask("TerminationProtected"))

    def set_keep_job_flow_alive_when_no_steps(self) -> ActionResult:
        return self._set_all(keep_alive=self._ask("KeepJobFlowAliveWhenNoSteps"))

    def set_visible_to_all_users(self) -> ActionResult:
        return self._set_all(visible=self._ask("VisibleToAllUsers"))

    def _set_all(self, **values: Any) -> ActionResult:
        lives = [self.emr.modifiable(self.emr.flow(cluster_id)) for cluster_id in self._ask("JobFlowIds")]
        for life in lives:
            life.update(**values)
        return EmptyResult()

    def add_tags(self) -> ActionResult:
        life = self.emr.life(self._ask("ResourceId"))
        added = {tag["Key"]: tag.get("Value", "") for tag in self._ask("Tags")}
        life.update(tags={**life.cluster.tags, **added})
        return EmptyResult()

    def remove_tags(self) -> ActionResult:
        life = self.emr.life(self._ask("ResourceId"))
        gone = self._ask("TagKeys")
        life.update(tags={key: value for key, value in life.cluster.tags.items() if key not in gone})
        return EmptyResult()

    # Policies

    def put_auto_termination_policy(self) -> ActionResult:
        life = self.emr.modifiable(self.emr.life(self._ask("ClusterId")))
        life.update(idle_timeout=requests.idle_timeout(self.request_data.get("AutoTerminationPolicy") or {}))
        return EmptyResult()

    def get_auto_termination_policy(self) -> ActionResult:
        seconds = self.emr.life(self._ask("ClusterId")).cluster.idle_timeout
        return ActionResult({"AutoTerminationPolicy": {"IdleTimeout": seconds}} if seconds else {})

    def remove_auto_termination_policy(self) -> ActionResult:
        self.emr.life(self._ask("ClusterId")).update(idle_timeout=None)
        return EmptyResult()

    def put_managed_scaling_policy(self) -> ActionResult:
        life = self.emr.modifiable(self.emr.life(self._ask("ClusterId")))
        life.update(scaling_policy=requests.scaling_policy(self._ask("ManagedScalingPolicy")))
        return EmptyResult()

    def get_managed_scaling_policy(self) -> ActionResult:
        policy = self.emr.life(self._ask("ClusterId")).cluster.scaling_policy
        return ActionResult({"ManagedScalingPolicy": policy} if policy else {})

    def remove_managed_scaling_policy(self) -> ActionResult:
        self.emr.life(self._ask("ClusterId")).update(scaling_policy=None)
        return EmptyResult()

    # Instances

    def list_instance_groups(self) -> ActionResult:
        collection = self.emr.life(self._ask("ClusterId")).cluster.collection
        if collection.kind != "INSTANCE_GROUP":
            raise InvalidRequestException("Instance fleets and instance groups are mutually exclusive.")
        return self._page("InstanceGroups", collection.describe_groups())

    def list_instance_fleets(self) -> ActionResult:
        collection = self.emr.life(self._ask("ClusterId")).cluster.collection
        if collection.kind != "INSTANCE_FLEET":
            raise InvalidRequestException("Instance fleets and instance groups are mutually exclusive.")
        return self._page("InstanceFleets", collection.describe_fleets())

    def list_instances(self) -> ActionResult:
        data = self.request_data
        collection = self.emr.life(self._ask("ClusterId")).cluster.collection
        fleet_type = data.get("InstanceFleetType")
        roles = [fleet_type] if fleet_type else data.get("InstanceGroupTypes")
        pool_id = data.get("InstanceGroupId") or data.get("InstanceFleetId")
        return self._page(
            "Instances", collection.describe_instances(pool_id, roles, data.get("InstanceStates"))
        )

    def list_bootstrap_actions(self) -> ActionResult:
        actions = self.emr.life(self._ask("ClusterId")).cluster.request.get("BootstrapActions") or []
        shown = [
            {
                "Name": action.get("Name", ""),
                "ScriptPath": action["ScriptBootstrapAction"]["Path"],
                "Args": action["ScriptBootstrapAction"].get("Args") or [],
            }
            for action in actions
        ]
        return self._page("BootstrapActions", shown)

    # Steps

    def add_job_flow_steps(self) -> ActionResult:
        steps = self.emr.add_steps(self._ask("JobFlowId"), self._ask("Steps"))
        return ActionResult({"StepIds": [step.id for step in steps]})

    def describe_step(self) -> ActionResult:
        return ActionResult({"Step": self.emr.step(self._ask("ClusterId"), self._ask("StepId")).describe()})

    def list_steps(self) -> ActionResult:
        """Newest first."""
        data = self.request_data
        ids, states = data.get("StepIds"), data.get("StepStates")
        steps = reversed(self.emr.life(self._ask("ClusterId")).cluster.steps)
        shown = [
            s.describe() for s in steps if (not ids or s.id in ids) and (not states or s.state in states)
        ]
        return self._page("Steps", shown)

    def cancel_steps(self) -> ActionResult:
        force = self.request_data.get("StepCancellationOption") == "TERMINATE_PROCESS"
        answers = self.emr.cancel_steps(self._ask("ClusterId"), self._ask("StepIds"), force)
        return ActionResult({"CancelStepsInfoList": answers})

    # moto has these, for clusters that are not ours.

    def _missing(self) -> ActionResult:
        raise ValidationException("This action is not part of local EMR.")

    add_instance_fleet = add_instance_groups = modify_instance_fleet = modify_instance_groups = _missing
    describe_job_flows = put_auto_scaling_policy = remove_auto_scaling_policy = _missing
