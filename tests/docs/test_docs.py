"""Everything that the pages name exists: links, targets, commands, options, variables, messages, columns."""

from __future__ import annotations

import ast
import json
import re
import shlex
from dataclasses import fields
from functools import cache
from pathlib import Path

import documented_commands
import pytest
import yaml

from fruit_pipeline import settings
from fruit_pipeline.run import request
from image_features import contract
from support import markdown

REPO = Path(__file__).resolve().parents[2]
PAGES = [str(page.relative_to(REPO)) for page in markdown.pages(REPO)]
DOCS = REPO / "docs"

every_page = pytest.mark.parametrize("page", PAGES)


@cache
def text_of(page: str) -> str:
    return (REPO / page).read_text()


@cache
def whole_text() -> str:
    return "\n".join(map(text_of, PAGES))


def test_the_pages_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/README.md", "local_emr/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md") if path.name != "README.md"))
def test_the_index_names_every_page(page: str) -> None:
    assert page in markdown.links(text_of("docs/README.md"))


@every_page
def test_links_lead_somewhere(page: str) -> None:
    for link in markdown.links(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (REPO / page).parent / path if path else REPO / page
        assert target.exists(), f"{page}: {link}"
        assert target.resolve().is_relative_to(REPO), f"{page}: {link} leads out of the project"
        if anchor:
            assert anchor in markdown.anchors(target.read_text()), f"{page}: {link}"


# Commands


@cache
def makefile() -> str:
    return (REPO / "Makefile").read_text()


def test_every_target_and_variable_of_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile(), re.MULTILINE))
    variables = set(re.findall(r"\$\(([A-Z_]+)\)", makefile()))
    code = [*markdown.spans(whole_text()), *markdown.commands(whole_text())]
    used = [line.split() for line in code if line.startswith("make ")]
    assert len(used) > 10
    for words in used:
        for word in words[1:]:
            if word in documented_commands.SHELL:
                break
            name, equals, _ = word.partition("=")
            known = variables if equals else targets
            if re.fullmatch(r"[A-Za-z][\w-]*", name):
                assert name in known, " ".join(words)


@every_page
def test_commands_of_the_shell_blocks_would_be_taken(page: str) -> None:
    for line in markdown.commands(text_of(page)):
        if own := documented_commands.own_command(line, REPO):
            documented_commands.check(*own, REPO, whole=True)


@every_page
def test_options_in_the_text_exist(page: str) -> None:
    for span in markdown.spans(text_of(page)):
        if re.match(r"(\S+/)?(python|spark-submit)\d?(\.\d+)? ", span) and (
            own := documented_commands.own_command(span, REPO)
        ):
            documented_commands.check(*own, REPO, whole=False)
        elif script := re.match(r"(extract_features|reduce_pca)\.py ", span):
            words = shlex.split(span)[1:]
            documented_commands.check(f"spark_jobs/{script[1]}.py", words, REPO, whole=False)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("python -m fruit_pipeline.fruit --run r", "no module fruit_pipeline.fruit"),
        ("python -m fruit_pipeline chekc --run r", "fruit_pipeline chekc parses no arguments"),
        ("fruit-features check --fruit r", "no option '--fruit'; did you mean '--run'?"),
        ("python -m fruit_pipeline check", "required: --run"),
        ("python -m fruit_pipeline check --run r --fruit r", "--fruit"),
        ("python -m fruit_pipeline estimate --images many", "--images"),
        ("python examples/fruit.py", "no script"),
        ("spark-submit --py-files a.zip reduce_pca.py --features a --output b", "--components --variance"),
    ],
)
def test_a_command_that_is_wrong_is_found(line: str, reason: str) -> None:
    own = documented_commands.own_command(line, REPO)
    assert own
    with pytest.raises(ValueError, match=re.escape(reason)):
        documented_commands.check(*own, REPO, whole=True)


@pytest.mark.parametrize("line", ["ls -l", "python -m pytest -m e2e", "airflow dags list", "python script"])
def test_commands_of_others_are_left_to_them(line: str) -> None:
    assert documented_commands.own_command(line, REPO) is None


def test_params_that_a_page_gives_a_run_are_there() -> None:
    known = {field.name for field in fields(request.RunRequest)} - {"dag_run"}
    runs = [
        line for line in markdown.commands(whole_text()) if re.search(r"dags (test|trigger) fruit_", line)
    ]
    assert runs
    for line in runs:
        words = shlex.split(line)
        assert set(json.loads(words[words.index("--conf") + 1])) <= known, line


# Snippets


@every_page
def test_snippets_are_valid_python_json_and_yaml(page: str) -> None:
    for code in markdown.blocks(text_of(page), "python"):
        compile(code, page, "exec")
    for code in markdown.blocks(text_of(page), "json"):
        json.loads(code)
    for code in markdown.blocks(text_of(page), "yaml"):
        yaml.safe_load(code)


# Variables


def test_every_variable_of_the_pages_is_used() -> None:
    read_elsewhere = "".join(
        path.read_text()
        for path in [
            *REPO.glob("docker-compose*.yaml"),
            *(REPO / "docker").glob("*"),
            *(REPO / "tests").glob("conftest.py"),
        ]
        if path.is_file()
    )
    variables = {variable.name for variable in settings.VARIABLES.values()}
    for name in set(re.findall(r"\bFRUITS_[A-Z_]*[A-Z]\b", whole_text())):
        assert name in variables or name in read_elsewhere, name


def test_the_table_of_settings_is_that_of_the_code() -> None:
    (table,) = markdown.tables(text_of("docs/settings.md"))
    assert table == [
        [f"`{variable.name}`", variable.meaning, variable.shown_default]
        for variable in settings.VARIABLES.values()
    ]


# Messages

_CODE = ("dags", "docker", "examples", "local_emr", "spark_jobs")


@cache
def texts_of_the_code() -> list[str]:
    """Every string of the code, with `\\0` for each filled-in value, and every line of the scripts."""
    scripts = [REPO / "Makefile", *(REPO / "bootstrap").glob("*.sh"), *REPO.glob("docker-compose*.yaml")]
    texts = [line for path in scripts for line in path.read_text().splitlines()]
    for path in (path for folder in _CODE for path in (REPO / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def messages() -> list[str]:
    """The messages of docs/troubleshooting.md: the code in the first cell of each row."""
    tables = markdown.tables(text_of("docs/troubleshooting.md"))
    return [message for table in tables for row in table for message in re.findall(r"`([^`]+)`", row[0])]


@pytest.mark.parametrize("message", messages())
def test_a_quoted_message_is_one_of_the_code(message: str) -> None:
    parts = message.split("…")
    assert sum(map(len, parts)) >= 12, "too short to identify one message"
    pattern = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
    longest = max(parts, key=len)
    assert any(longest in text and pattern.search(text) for text in texts_of_the_code()), message


# Columns


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("`sample/manifest.parquet`, one row", contract.MANIFEST_SCHEMA),
        ("`sample/left_out.parquet`, one row", contract.LEFT_OUT_SCHEMA),
        ("`sample/shard-*.parquet`:", contract.SAMPLE_SCHEMA),
        ("`sample/shard-*.parquet` with `pack` off", contract.LISTED_SCHEMA),
        ("`features/shard-*.parquet`:", contract.FEATURES_SCHEMA),
        ("`features/_reused/shard-*.parquet`", contract.REUSED_SCHEMA),
        ("`rejects/shard-*.parquet`", contract.REJECTS_SCHEMA),
        ("`pca/shard-*.parquet`:", contract.EMBEDDINGS_SCHEMA),
    ],
)
def test_columns_are_those_of_the_contract(file: str, schema: object) -> None:
    _, heading, after = text_of("docs/output.md").partition(f"\n{file}")
    assert heading
    rows = markdown.tables(after)[0]
    assert [(row[0], row[1]) for row in rows] == [
        (f"`{name}`", str(kind).replace("element", "item"))
        for name, kind in zip(schema.names, schema.types, strict=True)  # type: ignore[attr-defined]
    ]


@pytest.mark.parametrize("field", [field.name for field in fields(contract.RunSummary)])
def test_fields_of_the_summary_are_listed(field: str) -> None:
    _, found, section = text_of("docs/output.md").partition("`summary.json` holds:")
    assert found
    assert f"`{field}`" in section.partition("\n\n")[0]


@pytest.mark.parametrize("reason", [*contract.RejectReason, *contract.LeftOutReason])
def test_reasons_of_rejects_and_of_files_left_out_are_explained(reason: str) -> None:
    assert f"`{reason}`" in text_of("docs/output.md")


@pytest.mark.parametrize("conversion", list(contract.Conversion))
def test_conversions_are_explained(conversion: str) -> None:
    assert f"`{conversion}`" in text_of("docs/output.md")
