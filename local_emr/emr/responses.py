"""The actions of EMR's API. moto calls each by its name in snake case and serialises the result."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import Any, ClassVar

from moto.core.responses import ActionResult, BaseResponse, EmptyResult
from moto.emr.exceptions import InvalidRequestException, ValidationException
from moto.emr.responses import ElasticMapReduceResponse

from local_emr.emr import requests
from local_emr.emr.models import LocalEmrBackend

PAGE = 50  # EMR's page size


class LocalEmrResponse(ElasticMapReduceResponse):
    # The results are dicts with the names of the API, so moto has nothing to transform.
    RESPONSE_KEY_PATH_TO_TRANSFORMER: ClassVar[dict[str, Any]] = {}

    def get_region_from_url(self, request: Any, full_url: str) -> str:
        """The region that the request is signed for; moto's EMR reads it from the host name only."""
        return BaseResponse.get_region_from_url(self, request, full_url)

    @property
    def emr(self) -> LocalEmrBackend:
        return self.backend

    @property
    def request_data(self) -> dict[str, Any]:
        """The request with the names of the API; moto's parser changes them."""
        return json.loads(self.body or "{}")

    def _required(self, name: str) -> Any:
        """A member of the request. Raises ValidationException when it is missing."""
        value = self.request_data.get(name)
        if value is None:
            raise ValidationException(f"{name} is required.")
        return value

    def _page(self, result_key: str, items: list[Any]) -> ActionResult:
        """One page of a listing. Marker encodes the index of the next page's first item."""
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
        cluster = self.emr.run_cluster(self.request_data)
        return ActionResult({"JobFlowId": cluster.id, "ClusterArn": cluster.arn})

    def describe_cluster(self) -> ActionResult:
        return ActionResult({"Cluster": self.emr.lifecycle(self._required("ClusterId")).cluster.describe()})

    def list_clusters(self) -> ActionResult:
        """Newest first."""
        data = self.request_data
        states = data.get("ClusterStates")
        after, before = data.get("CreatedAfter", 0), data.get("CreatedBefore", math.inf)
        clusters = [lifecycle.cluster for lifecycle in list(self.emr.lifecycles.values())]
        listed = [c for c in clusters if (not states or c.state in states) and after <= c.created <= before]
        listed.sort(key=lambda c: c.created, reverse=True)
        return self._page("Clusters", [c.summary() for c in listed])

    def modify_cluster(self) -> ActionResult:
        cluster_id, level = self._required("ClusterId"), self.request_data.get("StepConcurrencyLevel")
        if level is not None:
            self.emr.set_concurrency(cluster_id, level)
        return ActionResult({"StepConcurrencyLevel": self.emr.lifecycle(cluster_id).cluster.concurrency})

    def terminate_job_flows(self) -> ActionResult:
        self.emr.terminate(self._required("JobFlowIds"))
        return EmptyResult()

    def set_termination_protection(self) -> ActionResult:
        return self._set_all(protected=self._required("TerminationProtected"))

    def set_keep_job_flow_alive_when_no_steps(self) -> ActionResult:
        return self._set_all(keep_alive=self._required("KeepJobFlowAliveWhenNoSteps"))

    def _set_all(self, **values: Any) -> ActionResult:
        ids = self._required("JobFlowIds")
        for lifecycle in [self.emr.require_alive(self.emr.job_flow(cluster_id)) for cluster_id in ids]:
            lifecycle.update(**values)
        return EmptyResult()

    def add_tags(self) -> ActionResult:
        lifecycle = self.emr.lifecycle(self._required("ResourceId"))
        added = {tag["Key"]: tag.get("Value", "") for tag in self._required("Tags")}
        lifecycle.update(tags={**lifecycle.cluster.tags, **added})
        return EmptyResult()

    def remove_tags(self) -> ActionResult:
        lifecycle = self.emr.lifecycle(self._required("ResourceId"))
        removed = self._required("TagKeys")
        tags = {key: value for key, value in lifecycle.cluster.tags.items() if key not in removed}
        lifecycle.update(tags=tags)
        return EmptyResult()

    # Policies

    def put_auto_termination_policy(self) -> ActionResult:
        lifecycle = self.emr.require_alive(self.emr.lifecycle(self._required("ClusterId")))
        lifecycle.update(
            idle_timeout=requests.idle_timeout(self.request_data.get("AutoTerminationPolicy") or {})
        )
        return EmptyResult()

    def get_auto_termination_policy(self) -> ActionResult:
        seconds = self.emr.lifecycle(self._required("ClusterId")).cluster.idle_timeout
        return ActionResult({"AutoTerminationPolicy": {"IdleTimeout": seconds}} if seconds else {})

    def remove_auto_termination_policy(self) -> ActionResult:
        self.emr.lifecycle(self._required("ClusterId")).update(idle_timeout=None)
        return EmptyResult()

    def put_managed_scaling_policy(self) -> ActionResult:
        lifecycle = self.emr.require_alive(self.emr.lifecycle(self._required("ClusterId")))
        lifecycle.update(scaling_policy=requests.scaling_policy(self._required("ManagedScalingPolicy")))
        return EmptyResult()

    def get_managed_scaling_policy(self) -> ActionResult:
        policy = self.emr.lifecycle(self._required("ClusterId")).cluster.scaling_policy
        return ActionResult({"ManagedScalingPolicy": policy} if policy else {})

    def remove_managed_scaling_policy(self) -> ActionResult:
        self.emr.lifecycle(self._required("ClusterId")).update(scaling_policy=None)
        return EmptyResult()

    # Instances

    def list_instance_groups(self) -> ActionResult:
        collection = self.emr.lifecycle(self._required("ClusterId")).cluster.collection
        if collection.kind != "INSTANCE_GROUP":
            raise InvalidRequestException("Instance fleets and instance groups are mutually exclusive.")
        return self._page("InstanceGroups", collection.describe_groups())

    def list_instance_fleets(self) -> ActionResult:
        collection = self.emr.lifecycle(self._required("ClusterId")).cluster.collection
        if collection.kind != "INSTANCE_FLEET":
            raise InvalidRequestException("Instance fleets and instance groups are mutually exclusive.")
        return self._page("InstanceFleets", collection.describe_fleets())

    def list_instances(self) -> ActionResult:
        data = self.request_data
        collection = self.emr.lifecycle(self._required("ClusterId")).cluster.collection
        fleet_type = data.get("InstanceFleetType")
        roles = [fleet_type] if fleet_type else data.get("InstanceGroupTypes")
        pool_id = data.get("InstanceGroupId") or data.get("InstanceFleetId")
        return self._page(
            "Instances", collection.describe_instances(pool_id, roles, data.get("InstanceStates"))
        )

    def list_bootstrap_actions(self) -> ActionResult:
        actions = (
            self.emr.lifecycle(self._required("ClusterId")).cluster.request.get("BootstrapActions") or []
        )
        described = [
            {
                "Name": action.get("Name", ""),
                "ScriptPath": action["ScriptBootstrapAction"]["Path"],
                "Args": action["ScriptBootstrapAction"].get("Args") or [],
            }
            for action in actions
        ]
        return self._page("BootstrapActions", described)

    # Steps

    def add_job_flow_steps(self) -> ActionResult:
        steps = self.emr.add_steps(self._required("JobFlowId"), self._required("Steps"))
        return ActionResult({"StepIds": [step.id for step in steps]})

    def describe_step(self) -> ActionResult:
        return ActionResult(
            {"Step": self.emr.step(self._required("ClusterId"), self._required("StepId")).describe()}
        )

    def list_steps(self) -> ActionResult:
        """Newest first."""
        data = self.request_data
        ids, states = data.get("StepIds"), data.get("StepStates")
        steps = reversed(self.emr.lifecycle(self._required("ClusterId")).cluster.steps)
        described = [
            s.describe() for s in steps if (not ids or s.id in ids) and (not states or s.state in states)
        ]
        return self._page("Steps", described)

    def cancel_steps(self) -> ActionResult:
        force = self.request_data.get("StepCancellationOption") == "TERMINATE_PROCESS"
        infos = self.emr.cancel_steps(self._required("ClusterId"), self._required("StepIds"), force)
        return ActionResult({"CancelStepsInfoList": infos})

    # Actions of moto that would act on moto's own records of clusters.

    def _not_available(self) -> ActionResult:
        raise ValidationException("This action is not part of local EMR.")

    add_instance_fleet = add_instance_groups = modify_instance_fleet = modify_instance_groups = _not_available
    describe_job_flows = put_auto_scaling_policy = remove_auto_scaling_policy = _not_available
    set_visible_to_all_users = _not_available
