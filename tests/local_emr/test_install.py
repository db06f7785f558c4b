"""bootstrap/install.sh with wheels that hold next to nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PIP = """
import pathlib, sys
words = sys.argv[1:]
assert words[0] == "install" and {"--no-index", "--require-hashes"} <= set(words), words
assert pathlib.Path(words[words.index("--find-links") + 1], "pip-1.0-py3-none-any.whl").is_file()
site = next(pathlib.Path(sys.prefix).glob("lib/python*/site-packages"))
(site / "installed.txt").write_text(sys.executable)
"""


class Bootstrap:
    """A node on which ``aws`` copies from a folder; ``sudo`` and ``python3.11`` are what they are."""

    def __init__(self, folder: Path, script: Path) -> None:
        self.script, self.root, self.wheels, self.bin = script, folder / "root", folder / "s3", folder / "bin"
        for made in (self.wheels, self.bin):
            made.mkdir()
        self._command("aws", f'cp -r "{self.wheels}/." "${{!#}}"')
        self._command("sudo", 'exec "$@"')
        self._command("python3.11", f'exec "{sys.executable}" "$@"')

    def _command(self, name: str, line: str) -> None:
        (self.bin / name).write_text(f"#!/bin/bash\n{line}\n")
        (self.bin / name).chmod(0o755)

    def wheel_of_pip(self, name: str = "pip-1.0-py3-none-any.whl", *, pinned: bool = True) -> None:
        with zipfile.ZipFile(self.wheels / name, "w") as wheel:
            wheel.writestr("pip/__main__.py", PIP)
        digest = hashlib.sha256((self.wheels / name).read_bytes()).hexdigest() if pinned else "0" * 64
        (self.wheels / "requirements-node.txt").write_text(f"pip==1.0 \\\n    --hash=sha256:{digest}\n")

    def run(self) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{self.bin}:/usr/bin:/bin", "EMR_NODE_ROOT": str(self.root)}
        command = ["bash", str(self.script), "s3://b/wheelhouse/1"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    @property
    def venv(self) -> Path:
        return self.root / "opt/image-features/venv"


@pytest.fixture
def node(tmp_path: Path, repo: Path) -> Bootstrap:
    return Bootstrap(tmp_path, repo / "bootstrap" / "install.sh")


def test_the_wheels_own_pip_installs_into_the_nodes_environment(node: Bootstrap) -> None:
    node.wheel_of_pip()
    done = node.run()
    (note,) = node.venv.glob("lib/python*/site-packages/installed.txt")
    assert note.read_text() == f"{node.venv}/bin/python"
    # Nothing was installed, so the script says what is missing and fails.
    assert done.returncode != 0
    assert "No module named 'ai_edge_litert'" in done.stderr


def test_a_pip_that_is_not_the_pinned_one_does_not_run(node: Bootstrap) -> None:
    node.wheel_of_pip(pinned=False)
    done = node.run()
    assert done.returncode != 0
    assert "pip-1.0-py3-none-any.whl is not the one of requirements-node.txt" in done.stderr
    assert not node.venv.exists()


def test_wheels_without_pip_are_refused(node: Bootstrap) -> None:
    done = node.run()
    assert done.returncode != 0
    assert "one wheel of pip is needed, there are 0" in done.stderr
    assert not node.venv.exists()
