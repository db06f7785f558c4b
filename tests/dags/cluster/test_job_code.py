"""The code that nodes get: always the same bytes, whole in itself, and nothing heavy in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import job_code
from image_features.errors import JobError
from image_features.storage import Storage
from support.local_aws import LocalAws


def test_the_same_sources_give_the_same_bytes(repo: Path, tmp_path: Path) -> None:
    first = job_code.package(repo / "spark_jobs" / "image_features")
    for file in (repo / "spark_jobs" / "image_features").glob("*.py"):  # younger, and in another order
        (tmp_path / "image_features").mkdir(exist_ok=True)
        (tmp_path / "image_features" / file.name).write_bytes(file.read_bytes())
    assert job_code.package(tmp_path / "image_features") == first


def test_digests_are_those_of_what_is_uploaded(repo: Path, tmp_path: Path) -> None:
    job_code.upload(repo, Storage(tmp_path))
    digests = job_code.digests(repo)
    uploaded = {"job_code": "image_features.zip", "bootstrap": "install.sh"}
    for name in ("job_code", "extract_features.py", "reduce_pca.py", "bootstrap"):
        content = (tmp_path / uploaded.get(name, name)).read_bytes()
        assert digests.pop(name) == hashlib.sha256(content).hexdigest()
    assert digests.keys() == {"pipeline"}


def test_the_zip_holds_every_module_and_nothing_else(repo: Path) -> None:
    folder = repo / "spark_jobs" / "image_features"
    with zipfile.ZipFile(io.BytesIO(job_code.package(folder))) as archive:
        assert set(archive.namelist()) == {f"image_features/{file.name}" for file in folder.glob("*.py")}


def test_nodes_can_import_every_module_from_the_zip_alone(repo: Path, tmp_path: Path) -> None:
    folder = repo / "spark_jobs" / "image_features"
    (tmp_path / "image_features.zip").write_bytes(job_code.package(folder))
    modules = [f"image_features.{file.stem}" for file in folder.glob("*.py") if file.stem != "__init__"]
    code = f"""
import importlib, json, sys
places = [importlib.import_module(name).__file__ for name in {modules!r}]
heavy = ["airflow", "tensorflow", "keras", "boto3", "botocore", "pyspark", "pandas", "fruit_pipeline"]
print(json.dumps([places, [name for name in heavy if name in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-s", "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "image_features.zip")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    places, heavy = json.loads(done.stdout)
    assert len(places) == len(modules) > 8
    assert all(place.startswith(str(tmp_path / "image_features.zip")) for place in places)
    assert heavy == []


def test_scripts_package_and_bootstrap_are_uploaded(repo: Path, local_aws: LocalAws, aws: Aws) -> None:
    names = job_code.upload(repo, aws.storage("s3://test-bucket/runs/code-test/code"))
    assert sorted(names) == sorted(local_aws.keys("runs/code-test/code"))
    assert set(names) == {"extract_features.py", "reduce_pca.py", "install.sh", "image_features.zip"}
    body = local_aws.s3.get_object(Bucket="test-bucket", Key="runs/code-test/code/install.sh")["Body"].read()
    assert body == (repo / "bootstrap" / "install.sh").read_bytes()


def test_a_home_without_the_project_is_refused_before_anything_is_uploaded(tmp_path: Path) -> None:
    target = Storage(tmp_path / "out", create=True)
    with pytest.raises(JobError, match=r"extract_features\.py is missing; set FRUITS_HOME"):
        job_code.upload(tmp_path, target)
    assert list(target.list()) == []
