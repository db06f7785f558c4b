"""The buckets and objects of a snapshot.

Objects come from moto's store directly: their bytes need no HTTP, and an unchanged object is not written
again. The settings of a bucket come from S3's API, whose GET returns what its PUT accepts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from moto.s3.models import FakeDeleteMarker, FakeKey, s3_backends

from local_emr.state import snapshot

# Setting of a bucket: its member in the result of the GET (None: the whole result), and in the PUT.
SETTINGS = {
    "bucket_versioning": (None, "VersioningConfiguration"),
    "bucket_encryption": ("ServerSideEncryptionConfiguration", "ServerSideEncryptionConfiguration"),
    "public_access_block": ("PublicAccessBlockConfiguration", "PublicAccessBlockConfiguration"),
    "bucket_policy": ("Policy", "Policy"),
    "bucket_tagging": (None, "Tagging"),
    "bucket_ownership_controls": ("OwnershipControls", "OwnershipControls"),
    "bucket_lifecycle_configuration": (None, "LifecycleConfiguration"),
    "bucket_cors": (None, "CORSConfiguration"),
}
DIGEST = "_local_emr_digest"  # attribute of a FakeKey whose bytes are on disk; a PUT makes a new FakeKey


class ObjectStore:
    """``objects.json`` and ``objects/`` of a directory; ``s3`` is a client of this server."""

    def __init__(self, directory: Path, s3: Any) -> None:
        self.index = snapshot.Document(directory / "objects.json")
        self.content = directory / "objects"
        self.s3 = s3

    def save(self) -> None:
        """Raises OSError."""
        buckets = []
        used: set[str] = set()
        for account, partition, backend in list(s3_backends.iter_backends()):
            for bucket in list(backend.buckets.values()):
                keys = list(self._keys(backend, bucket))
                used.update(key["digest"] for key in keys if "digest" in key)
                buckets.append(
                    {
                        "name": bucket.name,
                        "account": account,
                        "partition": partition,
                        "region": bucket.region_name,
                        "created": bucket.creation_date.timestamp(),
                        "settings": self._settings(bucket.name),
                        "keys": keys,
                    }
                )
        if self.index.save(buckets=buckets):
            self._remove_unused(used)

    def load(self) -> None:
        """Restores buckets and objects. Raises StateError."""
        for item in self.index.load("buckets"):
            try:
                self._load_bucket(item)
            except (KeyError, TypeError, OSError, ClientError, BotoCoreError) as error:
                raise snapshot.StateError(
                    f"{self.index.path}, bucket {item.get('name')}: {error!r}"
                ) from error

    def _load_bucket(self, item: dict[str, Any]) -> None:
        backend = s3_backends[item["account"]][item["partition"]]
        bucket = backend.create_bucket(item["name"], item["region"])
        bucket.creation_date = datetime.fromtimestamp(item["created"], UTC)
        for name, value in item["settings"].items():
            getattr(self.s3, f"put_{name}")(Bucket=item["name"], **{SETTINGS[name][1]: value})
        versions: dict[str, list[Any]] = {}
        for entry in item["keys"]:
            versions.setdefault(entry["name"], []).append(self._load_key(backend, bucket, entry))
        for name, keys in versions.items():
            bucket.keys.setlist(name, keys)

    def _keys(self, backend: Any, bucket: Any) -> Iterator[dict[str, Any]]:
        for name in list(bucket.keys):
            for key in list(bucket.keys.getlist(name, [])):
                entry = {"name": name, "version": key.version_id, "modified": key.last_modified.isoformat()}
                if isinstance(key, FakeDeleteMarker):
                    yield {**entry, "deleted": True}
                    continue
                yield {
                    **entry,
                    "digest": self._digest(key),
                    "etag": key.etag.strip('"'),
                    "versioned": key._is_versioned,
                    "metadata": dict(key.metadata),
                    "storage": key.storage_class,
                    "encryption": key.encryption,
                    "kms": key.kms_key_id,
                    "bucket_key": key.bucket_key_enabled,
                    "checksum": [
                        key.checksum_algorithm,
                        key.checksum_value,
                        key.checksum_type,
                        key.checksum_parts,
                    ],
                    "tags": backend.tagger.get_tag_dict_for_resource(key.arn),
                }

    def _load_key(self, backend: Any, bucket: Any, entry: dict[str, Any]) -> Any:
        modified = datetime.fromisoformat(entry["modified"])
        algorithm, value, kind, parts = entry.get("checksum", [None] * 4)
        deleted = entry.get("deleted", False)
        key = FakeKey(
            name=entry["name"],
            value=b"" if deleted else self._path(entry["digest"]).read_bytes(),
            account_id=backend.account_id,
            region_name=backend.region_name,
            bucket_name=bucket.name,
            version_id=entry["version"],
            storage=entry.get("storage"),
            etag=entry.get("etag"),
            is_versioned=entry.get("versioned", False),
            encryption=entry.get("encryption"),
            kms_key_id=entry.get("kms"),
            bucket_key_enabled=entry.get("bucket_key"),
            checksum_value=value,
            checksum_type=kind,
            checksum_parts=parts,
        )
        if deleted:
            marker = FakeDeleteMarker(key)
            marker.last_modified, marker._version_id = modified, entry["version"]
            return marker
        key.last_modified = modified
        key.checksum_algorithm = algorithm
        key.set_metadata(entry["metadata"])
        setattr(key, DIGEST, entry["digest"])
        if entry["tags"]:
            backend.tagger.tag_resource(key.arn, [{"Key": k, "Value": v} for k, v in entry["tags"].items()])
        return key

    def _digest(self, key: Any) -> str:
        """SHA-256 of the object's bytes, which are written unless their file exists."""
        digest: str | None = getattr(key, DIGEST, None)
        if digest is None:
            value = key.value
            digest = hashlib.sha256(value).hexdigest()
            if not self._path(digest).exists():
                snapshot.write(self._path(digest), value)
            setattr(key, DIGEST, digest)
        return digest

    def _path(self, digest: str) -> Path:
        return self.content / digest[:2] / digest

    def _remove_unused(self, used: set[str]) -> None:
        """Removes the files of bytes that no object has."""
        for path in self.content.glob("*/*"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _accepted_by_put(self, name: str, result: dict[str, Any]) -> dict[str, Any]:
        """The members of a GET's result that the PUT accepts."""
        operation = "Put" + "".join(word.capitalize() for word in name.split("_"))
        shape = self.s3.meta.service_model.operation_model(operation).input_shape.members[SETTINGS[name][1]]
        return {member: value for member, value in result.items() if member in shape.members}

    def _settings(self, bucket: str) -> dict[str, Any]:
        settings = {}
        for name, (member, _) in SETTINGS.items():
            try:
                result = getattr(self.s3, f"get_{name}")(Bucket=bucket)
            except ClientError:  # S3's answer when the bucket does not have the setting
                continue
            value = result[member] if member else self._accepted_by_put(name, result)
            if value:
                settings[name] = value
        return settings
