"""Look for secrets in the files of the project, or in every line that git's history ever added.

    python tests/security/secret_scan.py             # the files as they are
    python tests/security/secret_scan.py --history   # all commits of all branches

Exit codes: 0 none, 1 some, each told by file, line and kind; never the secret itself.
"""

from __future__ import annotations

import argparse
import functools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from detect_secrets import SecretsCollection
from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.settings import transient_settings

REPO = Path(__file__).resolve().parents[2]

# What is found and is none. Few, and each with its reason.
DUMMIES = {
    "local",  # keys of the local AWS, which takes any
    "load",
    "test",
    "testing",
    "only-for-this-test-on-loopback-0123456789",  # of an Airflow that lives as long as a test
    "leak",  # set by a test of the local AWS, which looks that no step gets it
    "test_containers.py",  # a file, named behind a secrets.py in an early SECURITY.md
}
PICTURE = re.compile(r"/9j/|iVBORw0KGgo")  # JPEG and PNG in base64: outputs of the notebooks
LOCKED = re.compile(r"(.*/)?requirements[\w-]*\.txt")  # written by uv: names and digests, no line is ours
ADDED_BY = re.compile(r'\+\+\+ (?:"?b/(.*?)"?|/dev/null)\t?')


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-c", "core.quotePath=off", "-C", str(REPO), *arguments], capture_output=True, check=True
    )
    return done.stdout.decode(errors="replace")


def present() -> list[Path]:
    """The files that git knows, or would take."""
    names = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [REPO / name for name in names if name and (REPO / name).is_file()]


def history(folder: Path) -> list[Path]:
    """For each path that ever was, a file below ``folder`` with the lines that were ever added to it."""
    lines: dict[str, dict[str, None]] = {}
    at: dict[str, None] = {}
    for line in git("log", "-p", "--all", "-m", "--unified=0", "--no-color", "--no-renames").splitlines():
        if match := ADDED_BY.fullmatch(line):
            at = lines.setdefault(match[1] or "", {})
        elif line.startswith("+"):
            at[line[1:]] = None
    paths = []
    for name, added in lines.items():
        if name:
            paths.append(folder / name.replace("\\", "_"))
            paths[-1].parent.mkdir(parents=True, exist_ok=True)
            paths[-1].write_text("\n".join(added))
    return paths


def found(paths: list[Path], root: Path) -> Iterator[str]:
    """Every secret in ``paths``: its place and kind."""
    plugins = list(get_mapping_from_secret_type_to_class().values())
    scanned = [path for path in paths if not LOCKED.fullmatch(path.relative_to(root).as_posix())]
    plain = {path for path in scanned if path.suffix == ".py" and not _matches_a_pattern(path)}
    secrets = SecretsCollection()
    for files, used in (
        (plain, [plugin for plugin in plugins if not issubclass(plugin, RegexBasedDetector)]),
        ([path for path in scanned if path not in plain], plugins),
    ):
        with transient_settings({"plugins_used": [{"name": plugin.__name__} for plugin in used]}):
            for path in files:
                secrets.scan_file(str(path))
    for name, secret in secrets:
        value = secret.secret_value or ""
        if value not in DUMMIES and not PICTURE.match(value):
            yield f"{Path(name).relative_to(root)}:{secret.line_number}: {secret.type}"


@functools.cache
def _patterns() -> list[re.Pattern[str]]:
    """Those of the detectors that are patterns only, for a whole text in place of a line."""
    plugins = get_mapping_from_secret_type_to_class().values()
    return [
        re.compile(pattern.pattern, pattern.flags | re.MULTILINE)
        for plugin in plugins
        if issubclass(plugin, RegexBasedDetector)
        for pattern in plugin().denylist
    ]


def _matches_a_pattern(path: Path) -> bool:
    """Whether a file needs the detectors that are patterns: each costs a call for each line."""
    text = path.read_text(errors="replace")
    return any(pattern.search(text) for pattern in _patterns())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--history", action="store_true", help="every line that was ever added")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) if args.history else REPO
        paths = history(root) if args.history else present()
        places = sorted(found(paths, root))
    for place in places:
        print(place)
    print(f"{len(paths)} {'paths of the history' if args.history else 'files'}: {len(places)} secrets")
    return 1 if places else 0


if __name__ == "__main__":
    sys.exit(main())
