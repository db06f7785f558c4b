"""No key leads out of the prefix or folder that it belongs to, be it given or listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_features.errors import JobError
from image_features.storage import S3Access, Storage
from support.local_aws import REGION, LocalAws

# obstore looks at a path before it asks for anything: a fault of the caller, not of the storage.
REFUSED = (JobError, ValueError)
OUT = ["../out", "a/../../out", "..", "a/..", "./../out"]


def access_of(aws: LocalAws) -> S3Access:
    def key() -> Any:
        return {"access_key_id": "test", "secret_access_key": "test", "expires_at": None}

    return S3Access(REGION, aws.endpoint, key)


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A run's storage: a folder, or a prefix of the local AWS."""
    if request.param == "folder":
        return Storage(tmp_path / "runs" / "key", create=True)
    aws: LocalAws = request.getfixturevalue("aws")
    return Storage("s3://test-bucket/runs/key", access_of(aws))


@pytest.mark.parametrize("key", OUT)
def test_a_key_that_leads_out_is_neither_written_nor_read(storage: Storage, key: str, tmp_path: Path) -> None:
    with pytest.raises(REFUSED):
        storage.put(key, b"x")
    with pytest.raises(REFUSED):
        storage.get(key)
    assert list(tmp_path.rglob("out")) == []


def test_an_object_whose_key_leads_out_is_not_listed(aws: LocalAws) -> None:
    """Whoever can write to a bucket could otherwise have a copy of a run put anywhere."""
    aws.put("runs/listed/ok", "x")
    aws.put("runs/listed/../../../out", "x")
    with pytest.raises(JobError, match="cannot list"):
        list(Storage("s3://test-bucket/runs/listed", access_of(aws)).list())
