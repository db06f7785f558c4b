"""The roles and instance profiles of a snapshot, which every cluster needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moto.iam.models import iam_backends

from local_emr.state import snapshot


class RoleStore:
    """``roles.json`` of a directory. Managed policies attached to a role are not saved."""

    def __init__(self, directory: Path) -> None:
        self.document = snapshot.Document(directory / "roles.json")

    def save(self) -> None:
        """Raises OSError."""
        accounts = [
            {
                "account": account,
                "partition": partition,
                "roles": [_role_document(role) for role in list(backend.roles.values())],
                "profiles": [
                    _profile_document(profile) for profile in list(backend.instance_profiles.values())
                ],
            }
            for account, partition, backend in list(iam_backends.iter_backends())
        ]
        self.document.save(accounts=accounts)

    def load(self) -> None:
        """Restores roles and instance profiles. Raises StateError."""
        try:
            for item in self.document.load("accounts"):
                backend = iam_backends[item["account"]][item["partition"]]
                for role in item["roles"]:
                    policies = role.pop("policies")
                    backend.create_role(**role).policies.update(policies)
                for profile in item["profiles"]:
                    backend.create_instance_profile(**profile)
        except (KeyError, TypeError, AttributeError) as error:
            raise self.document.damaged(repr(error)) from error


def _role_document(role: Any) -> dict[str, Any]:
    """The arguments of moto's ``create_role``, and the inline policies by name."""
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


def _profile_document(profile: Any) -> dict[str, Any]:
    """The arguments of moto's ``create_instance_profile``."""
    return {"name": profile.name, "path": profile.path, "role_names": [role.name for role in profile.roles]}
