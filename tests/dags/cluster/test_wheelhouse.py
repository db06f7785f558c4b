"""Wheels are pinned, downloaded once, and of the machine they are for. pip itself runs here."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cluster import wheelhouse
from image_features.contract import MARKER
from image_features.errors import JobError
from image_features.storage import Storage
from support.local_aws import BUCKET
from support.processes import python


def make_wheel(folder: Path, name: str, tag: str) -> str:
    """Write an empty wheel; return its line for a requirements file."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = ""
    for path, body in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(body).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(body)}\n"
    with zipfile.ZipFile(file, "w") as archive:
        for path, body in files.items():
            archive.writestr(path, body)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return f"{name}==1.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes its wheels from, in place of PyPI."""
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def requirements(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / wheelhouse.REQUIREMENTS
    file.write_text("\n".join(lines) + "\n")
    return file


def test_host_wheels_are_downloaded_once(index: Path, tmp_path: Path) -> None:
    wanted = requirements(tmp_path, make_wheel(index, "alpha", "py3-none-any"))
    built = wheelhouse.build(wanted, "host", tmp_path / "cache")
    assert [file.name for file in built.files] == ["alpha-1.0-py3-none-any.whl", wheelhouse.REQUIREMENTS]
    assert built.digest == wheelhouse.digest_for(wanted, "host")
    assert built.bytes == sum(file.stat().st_size for file in built.files) > 0
    next(index.iterdir()).unlink()  # pip would find nothing now
    assert wheelhouse.build(wanted, "host", tmp_path / "cache") == built


def test_emr_nodes_get_the_wheels_of_their_own_python_and_glibc_for_both_machines(
    index: Path, tmp_path: Path
) -> None:
    lines = set()
    for machine in ("x86_64", "aarch64"):
        fitting = make_wheel(index, "alpha", f"cp311-cp311-manylinux_2_34_{machine}")
        lines.add(fitting.partition(" ")[2])
        make_wheel(index, "alpha", f"cp311-cp311-manylinux_2_35_{machine}")  # a newer glibc
        make_wheel(index, "alpha", f"cp312-cp312-manylinux_2_34_{machine}")  # a newer Python
        make_wheel(index, "alpha", f"cp311-cp311-musllinux_1_2_{machine}")  # another libc
    every = [f"--hash=sha256:{hashlib.sha256(f.read_bytes()).hexdigest()}" for f in index.iterdir()]
    built = wheelhouse.build(
        requirements(tmp_path, f"alpha==1.0 {' '.join(every)}"), "emr", tmp_path / "cache"
    )
    assert [file.relative_to(built.folder).as_posix() for file in built.files if file.suffix == ".whl"] == [
        "aarch64/alpha-1.0-cp311-cp311-manylinux_2_34_aarch64.whl",
        "x86_64/alpha-1.0-cp311-cp311-manylinux_2_34_x86_64.whl",
    ]


def test_a_wheel_of_other_bytes_is_refused_and_nothing_is_cached(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "alpha", "py3-none-any")
    wanted = requirements(tmp_path, f"alpha==1.0 --hash=sha256:{'0' * 64}")
    with pytest.raises(JobError, match="wheels of the nodes cannot be downloaded: ERROR"):
        wheelhouse.build(wanted, "host", tmp_path / "cache")
    assert list((tmp_path / "cache" / "wheelhouse").iterdir()) == []


def test_a_wheel_that_is_nowhere_is_named(index: Path, tmp_path: Path) -> None:
    wanted = requirements(tmp_path, f"beta==1.0 --hash=sha256:{'0' * 64}")
    with pytest.raises(JobError, match=r"cannot be downloaded: ERROR: .*beta==1\.0"):
        wheelhouse.build(wanted, "host", tmp_path / "cache")


def test_targets_and_requirements_have_digests_of_their_own(tmp_path: Path) -> None:
    digests = {
        wheelhouse.digest_for(requirements(tmp_path, f"{name}==1.0"), target)
        for name in ("alpha", "beta")
        for target in ("host", "emr")
    }
    assert len(digests) == 4


def test_publishing_twice_uploads_once_and_a_cut_upload_is_mended(index: Path, tmp_path: Path) -> None:
    wanted = requirements(tmp_path, make_wheel(index, "alpha", "py3-none-any"))
    built = wheelhouse.build(wanted, "host", tmp_path / "cache")
    target = Storage(tmp_path / "bucket", create=True)
    uri = wheelhouse.publish(built, target)
    assert uri == target.uri_of(built.digest)
    keys = {obj.key for obj in target.list()}
    assert len(keys) == 3
    assert f"{built.digest}/{MARKER}" in keys
    (wheel,) = (key for key in keys if key.endswith(".whl"))

    first = {obj.key: obj.version for obj in target.list()}
    wheelhouse.publish(built, target)
    assert {obj.key: obj.version for obj in target.list()} == first, "it was uploaded again"
    target.delete([f"{built.digest}/{MARKER}", wheel])
    wheelhouse.publish(built, target)
    assert {obj.key for obj in target.list()} == keys


def flipped(content: bytes) -> bytes:
    return bytes([content[0] ^ 1]) + content[1:]


def cut(content: bytes) -> bytes:
    return content[:-1]


WHEEL = "alpha-1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("name", "damage"), [(WHEEL, flipped), (WHEEL, cut), (WHEEL, None), (wheelhouse.REQUIREMENTS, flipped)]
)
def test_a_damaged_cache_is_downloaded_again(
    index: Path, tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    wanted = requirements(tmp_path, make_wheel(index, "alpha", "py3-none-any"))
    built = wheelhouse.build(wanted, "host", tmp_path / "cache")
    before = {file: file.read_bytes() for file in built.files}
    (file,) = (file for file in built.files if file.name == name)
    if damage:
        file.write_bytes(damage(file.read_bytes()))
    else:
        file.unlink()
    again = wheelhouse.build(wanted, "host", tmp_path / "cache")
    assert {file: file.read_bytes() for file in again.files} == before


def test_a_damaged_object_of_the_bucket_is_uploaded_again(index: Path, tmp_path: Path, aws: Aws) -> None:
    wanted = requirements(tmp_path, make_wheel(index, "alpha", "py3-none-any"))
    built = wheelhouse.build(wanted, "host", tmp_path / "cache")
    target = aws.storage(f"s3://{BUCKET}/{tmp_path.name}")
    wheelhouse.publish(built, target)
    before = {obj.key: target.get(obj.key).to_pybytes() for obj in target.list()}
    assert len(before) == 3
    for key, content in before.items():
        for damage in (flipped, cut, None):
            if damage:
                target.put(key, damage(content))
            else:
                target.delete([key])
            wheelhouse.publish(built, target)
            assert {obj.key: target.get(obj.key).to_pybytes() for obj in target.list()} == before


def test_an_upload_of_an_older_release_is_uploaded_once_more(index: Path, tmp_path: Path) -> None:
    wanted = requirements(tmp_path, make_wheel(index, "alpha", "py3-none-any"))
    built = wheelhouse.build(wanted, "host", tmp_path / "cache")
    target = Storage(tmp_path / "bucket", create=True)
    wheelhouse.publish(built, target)
    target.put(f"{built.digest}/{MARKER}", b"{}")  # it says nothing about the objects
    wheelhouse.publish(built, target)
    assert target.get(f"{built.digest}/{MARKER}").size > 2


def test_the_nodes_requirements_are_all_pinned_by_hash(repo: Path) -> None:
    text = (repo / "bootstrap" / wheelhouse.REQUIREMENTS).read_text()
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if entry and entry[0] != "#"]
    names = {entry.split("==")[0] for entry in entries}
    assert {"ai-edge-litert", "numpy", "obstore", "pillow", "pip", "pyarrow"} <= names
    assert all("==" in entry and "--hash=sha256:" in entry for entry in entries)
    assert not {"tensorflow", "boto3", "pyspark"} & names


@pytest.mark.e2e
def test_the_real_host_wheels_hold_what_the_job_code_imports(repo: Path, tmp_path: Path) -> None:
    built = wheelhouse.build(repo / "bootstrap" / wheelhouse.REQUIREMENTS, "host", tmp_path)
    wheels = [str(file) for file in built.files if file.suffix == ".whl"]
    code = f"""
import zipfile
for wheel in {wheels!r}:
    print(*zipfile.ZipFile(wheel).namelist(), sep="\\n")
"""
    names = python(code).splitlines()
    for module in ("numpy/__init__.py", "pyarrow/__init__.py", "PIL/__init__.py", "obstore/__init__.py"):
        assert module in names
    assert "ai_edge_litert/interpreter.py" in names
