"""The job code of a run, uploaded with it: a run can be repeated with the code that computed it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

from image_features.errors import JobError
from image_features.storage import Storage

JOB_PACKAGE = "image_features.zip"
EXTRACT_SCRIPT = "extract_features.py"
PCA_SCRIPT = "reduce_pca.py"
BOOTSTRAP_SCRIPT = "install.sh"


def upload(home: Path, target: Storage) -> list[str]:
    """Upload entry points, package and bootstrap script; return the keys of the objects.

    Raises JobError when ``home`` is not the project's folder.
    """
    jobs = home / "spark_jobs"
    files = [jobs / EXTRACT_SCRIPT, jobs / PCA_SCRIPT, home / "bootstrap" / BOOTSTRAP_SCRIPT]
    for file in files:
        if not file.is_file():
            raise JobError(f"{file} is missing; set FRUITS_HOME to the folder of spark_jobs and bootstrap")
    for file in files:
        target.put(file.name, file)
    target.put(JOB_PACKAGE, package(jobs / "image_features"))
    return [*(file.name for file in files), JOB_PACKAGE]


def digests(home: Path) -> dict[str, str]:
    """SHA-256 (hex) of each part of a run's code: what ``upload`` writes, and the pipeline's own Python."""
    jobs = home / "spark_jobs"
    parts = {
        "job_code": package(jobs / "image_features"),
        EXTRACT_SCRIPT: (jobs / EXTRACT_SCRIPT).read_bytes(),
        PCA_SCRIPT: (jobs / PCA_SCRIPT).read_bytes(),
        "bootstrap": (home / "bootstrap" / BOOTSTRAP_SCRIPT).read_bytes(),
        "pipeline": package(home / "dags" / "fruit_pipeline"),
    }
    return {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}


def package(folder: Path) -> bytes:
    """Zip a package for ``--py-files``; the same sources give the same bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.py")):
            # The default date of ZipInfo is fixed; ZipFile.write would use the file's own.
            entry = zipfile.ZipInfo(f"{folder.name}/{file.relative_to(folder).as_posix()}")
            archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return sink.getvalue()
