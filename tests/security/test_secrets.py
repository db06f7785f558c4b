"""No secret lies in the tree, and the scan that says so finds one where there is one."""

from __future__ import annotations

import secrets
import string
import subprocess
from pathlib import Path

import pytest
import secret_scan


def test_no_file_of_the_project_holds_a_secret() -> None:
    assert list(secret_scan.found(secret_scan.present(), secret_scan.REPO)) == []


def drawn(length: int, letters: str = string.ascii_letters + string.digits) -> str:
    return "".join(secrets.choice(letters) for _ in range(length))


def planted() -> dict[str, str]:
    """Secrets of several kinds, as they stand in files; made here, for they may stand in none of ours."""
    return {
        "AWS Access Key": f'key = "AKIA{drawn(16, string.ascii_uppercase + string.digits)}"',
        "Private Key": "-----BEGIN " + "RSA PRIVATE KEY-----",
        "Secret Keyword": f'aws_secret_access_key = "{drawn(40)}"',
        "GitHub Token": f'token = "ghp_{drawn(36)}"',
        "Hex High Entropy String": f'fernet = "{secrets.token_hex(32)}"',
    }


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another project, in place of ours."""
    monkeypatch.setattr(secret_scan, "REPO", tmp_path)
    git(tmp_path, "init", "--quiet")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)


def test_each_kind_of_secret_is_found_and_not_shown(other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, line in enumerate(planted().values()):
        (other / f"{number}.py").write_text(f"first = 1\n{line}\n")
    assert secret_scan.main([]) == 1
    shown = capsys.readouterr().out
    for number, (kind, line) in enumerate(planted().items()):
        assert f"{number}.py:2: {kind}" in shown
        assert line.split('"')[1:2] == [] or line.split('"')[1] not in shown
    assert not any(word in shown for word in ("AKIA", "ghp_"))


def test_a_secret_that_was_deleted_is_found_in_the_history(
    other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = other / "folder" / "settings é.py"
    file.parent.mkdir()
    file.write_text(planted()["Secret Keyword"])
    git(other, "add", ".")
    git(other, "commit", "--quiet", "-m", "with it")
    file.write_text("nothing = 0\n")
    git(other, "commit", "--quiet", "-a", "-m", "without it")
    assert secret_scan.main([]) == 0
    assert secret_scan.main(["--history"]) == 1
    assert "settings" in capsys.readouterr().out
