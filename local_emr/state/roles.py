"""IAM's roles and instance profiles in a snapshot: no cluster starts without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from local_emr.state import snapshot


class RoleStore:
    """``roles.json`` of a directory. Managed policies that are attached to a role are not kept."""

    def __init__(self, directory: Path) -> None:
        self.document = snapshot.Document(directory / "roles.json")

    def save(self) -> None:
        """Raises OSError."""
        accounts = [
            {
                "account": account,
                "partition": partition,
                "roles": [_of_role(role) for role in list(backend.roles.values())],
                "profiles": [_of_profile(profile) for profile in list(backend.instance_profiles.values())],
            }
            for account, partition, backend in list(iam_backends.iter_backends())
        ]
        self.document.save(accounts=accounts)

    def load(self) -> None:
        """Brings them back. Raises StateError."""
        try:
            for item in self.document.load("accounts"):
                backend = iam_backends[item["account"]][item["partition"]]
                for kept in item["roles"]:
                    policies = kept.pop("policies")
                    backend.create_role(**kept).policies.update(policies)
                for profile in item["profiles"]:
                    backend.create_instance_profile(**profile)
        except (KeyError, TypeError, AttributeError) as error:
            raise self.document.damaged(repr(error)) from error


def _of_role(role: Any) -> dict[str, Any]:
    """What moto's ``create_role`` takes, and the role's own policies by name."""
    return {
        "role_name": role.name,
        "assume_role_policy_document": role.assume_role_policy_document,
        "path": role.path,
        "permissions_boundary": role.permissions_boundary_arn,
        "description": role.description,
        "tags": role.tags,
        "max_session_duration": role.max_session_duration,
        "linked_service": role._linked_service,
        "policies": dict(role.policies),
    }


def _of_profile(profile: Any) -> dict[str, Any]:
    """What moto's ``create_instance_profile`` takes."""
    return {"name": profile.name, "path": profile.path, "role_names": [role.name for role in profile.roles]}
