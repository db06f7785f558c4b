"""What the product's code does not do. Only what ruff and bandit, which `make lint` runs, do not see."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMMANDS = {"run", "Popen", "call", "check_call", "check_output"}
SHELLS = {"sh", "bash", "/bin/sh", "/bin/bash"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls of a module, by the name as written: ``np.load``."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((given.value for given in call.keywords if given.arg == name), None)


def places(product: list[Path], repo: Path, wrong: Callable[[str, ast.Call], Any]) -> list[str]:
    return [
        f"{path.relative_to(repo)}:{call.lineno}: {name}"
        for path in product
        for name, call in calls(path)
        if wrong(name, call)
    ]


def test_the_product_is_looked_at(product: list[Path]) -> None:
    names = {path.name for path in product}
    assert {"fruit_features.py", "reduce_pca.py", "browser_guard.py", "make_env.py", "execute.py"} <= names
    assert len(product) > 100


def test_arrays_are_read_without_pickles(product: list[Path], repo: Path) -> None:
    def wrong(name: str, call: ast.Call) -> bool:
        if name not in ("np.load", "numpy.load", "np.save", "np.savez", "np.savez_compressed"):
            return False
        allowed = keyword(call, "allow_pickle")
        if name.endswith(".load"):
            return not (isinstance(allowed, ast.Constant) and allowed.value is False)
        return isinstance(allowed, ast.Constant) and allowed.value is True

    assert places(product, repo, wrong) == []


@pytest.mark.parametrize(
    "name",
    [
        # Data that runs code when it is read, where ruff does not look.
        r".*\.(load_model|pickleFile|saveAsPickleFile|read_pickle|to_pickle)|joblib\.(load|dump)|torch\.load",
        r"(yaml\.)?(unsafe_load|full_load|unsafe_load_all|full_load_all)",
        # Programs by a line of text.
        r"os\.(popen|spawn\w+)|pty\.spawn|asyncio\.create_subprocess_shell",
        r"(code|codeop)\.\w+|runpy\.\w+|compile",
    ],
)
def test_nothing_that_is_read_is_run(product: list[Path], repo: Path, name: str) -> None:
    assert places(product, repo, lambda called, _: re.fullmatch(name, called)) == []


def test_no_program_is_executed_in_place_of_another_but_a_command_by_itself(
    product: list[Path], repo: Path
) -> None:
    executed = places(product, repo, lambda name, _: re.fullmatch(r"os\.exec\w+", name))
    assert {place.split(":")[0] for place in executed} == {"spark_jobs/image_features/cli.py"}


def test_archives_are_unpacked_by_the_one_place_that_guards_them(product: list[Path], repo: Path) -> None:
    found = places(product, repo, lambda name, _: name.split(".")[-1] in ("unpack_archive", "extractall"))
    assert {place.split(":")[0] for place in found} == {"local_emr/node/step_commands.py"}


def test_commands_are_lists_and_no_shell_is_given_text_that_was_put_together(
    product: list[Path], repo: Path
) -> None:
    def wrong(name: str, call: ast.Call) -> bool:
        module, _, function = name.rpartition(".")
        if module != "subprocess" or function not in COMMANDS:
            return False
        return isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp)

    assert places(product, repo, wrong) == []
    for path in product:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple):
                words = [part.value if isinstance(part, ast.Constant) else None for part in node.elts]
                shell = SHELLS & {word for word in words if isinstance(word, str)}
                assert not (shell and "-c" in words), f"{path}:{node.lineno}"


def test_templates_put_nothing_of_the_data_where_escaping_does_not_help(repo: Path) -> None:
    """A link, a handler or a style takes escaped text for code; a script reads data as JSON only."""
    pages = repo / "dags/fruit_pipeline/pages"
    marked_safe = set()
    for page in pages.glob("*.html"):
        text = page.read_text()
        marked_safe |= set(re.findall(r"\{\{\s*(\w+)[^}]*\|\s*safe", text))
        assert not re.search(r"<[^>]*\s(on\w+|style|srcdoc)\s*=", text), page.name
        assert not re.search(r"<[^>]*\s(href|src|action|formaction|xlink:href)\s*=(?!\"#)", text), page.name
        assert "autoescape" not in text, page.name
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", text, re.DOTALL)
        assert set(scripts) <= {"{{ script | safe }}", "{{ data | tojson }}"}
    assert marked_safe == {"style", "script", "policy"}, "these three are the project's own"


def test_scripts_of_pages_make_text_of_data_and_never_markup(repo: Path) -> None:
    scripts = list((repo / "dags/fruit_pipeline/pages").glob("*.js"))
    assert scripts
    for script in scripts:
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\.src\b|\.href\b",
            script.read_text(),
        )
        assert found == [], script.name


def shell_scripts(repo: Path) -> list[Path]:
    """Every file that a shell runs, by its first line."""
    listed = subprocess.run(
        ["git", "-C", str(repo), "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    paths = [repo / name for name in listed.stdout.split("\0") if name]
    first = re.compile(rb"#!\s*(/usr)?/bin/(env )?(ba)?sh\b")
    return [path for path in paths if path.is_file() and first.match(path.open("rb").read(40))]


def test_shell_scripts_quote_what_they_are_given(repo: Path) -> None:
    scripts = shell_scripts(repo)
    assert {"install.sh", "api-server.sh", "run"} <= {path.name for path in scripts}
    shellcheck = shutil.which("shellcheck", path=str(repo / ".venv/bin")) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck is in requirements-dev.txt"
    done = subprocess.run([shellcheck, "--severity=style", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for script in scripts:
        text = script.read_text()
        assert re.search(r"set -eu", text), f"{script.name} goes on after a failure"
        assert not re.search(r"\beval\b|\b(ba)?sh -c\b|curl[^\n|]*\|\s*(ba)?sh", text), script.name
