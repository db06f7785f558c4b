"""The digest of the code that decides features: part of each shard's fingerprint."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import image_features
from image_features import versions

PACKAGE = Path(image_features.__file__).parent
UNDECIDING = {"contract", "documents", "errors", "storage"}
"""What the deciding modules import as well: it moves bytes and names values, it changes no pixel."""


def printed_digest(place: Path) -> str:
    code = "from image_features import versions; print(versions.code_digest(), versions.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(place)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    digest, file = done.stdout.split()
    assert file.startswith(str(place))
    return digest


def test_a_run_s_runtime_names_the_digest() -> None:
    assert versions.deciding().endswith(f", code {versions.code_digest()[:16]}")


@pytest.mark.parametrize("module", versions.DECIDING_MODULES)
def test_a_change_of_any_deciding_module_changes_the_digest(module: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "image_features")
    assert printed_digest(tmp_path) == versions.code_digest()
    changed = tmp_path / "image_features" / f"{module}.py"
    changed.write_text(changed.read_text() + "\nX = 1\n")
    assert printed_digest(tmp_path) != versions.code_digest()


def test_the_digest_of_the_zip_that_nodes_import_is_the_same(tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "image_features"), "zip", PACKAGE.parent, PACKAGE.name)
    assert printed_digest(Path(archive)) == versions.code_digest()


def test_a_module_that_a_deciding_one_imports_decides_too_or_is_known_not_to() -> None:
    for module in versions.DECIDING_MODULES:
        imported = set()
        for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "image_features":
                imported |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("image_features."):
                imported.add((node.module or "").partition(".")[2])
        assert imported <= {*versions.DECIDING_MODULES, *UNDECIDING}, module
