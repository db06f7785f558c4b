"""What spark-submit starts: arguments, exit codes, what is printed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from image_features import cli, errors
from image_features import spark as image_features_spark
from image_features.errors import JobError, StorageError
from support.documents import values_of
from support.runs import Run

EXTRACT = ["--sample", "s", "--model", "m", "--output", "o"]
REDUCE = ["--features", "f", "--output", "o"]


def load(repo: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, repo / "spark_jobs" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def extract_features(repo: Path) -> ModuleType:
    return load(repo, "extract_features")


@pytest.fixture
def reduce_pca(repo: Path) -> ModuleType:
    return load(repo, "reduce_pca")


@pytest.fixture
def no_jvm(monkeypatch: pytest.MonkeyPatch, spark: Any) -> None:
    """The steps run on the stand-in for Spark; the end-to-end tests start the real one."""

    @contextlib.contextmanager
    def session(name: str) -> Iterator[Any]:
        yield spark

    monkeypatch.setattr(image_features_spark, "spark_session", session)


def refusal(module: ModuleType, argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr of a call whose arguments are wrong."""
    with pytest.raises(SystemExit) as caught:
        module.main(argv)
    assert caught.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--sample, --model, --output"),
        (EXTRACT[2:], "--sample"),
        ([*EXTRACT, "--max-pixels", "0"], "--max-pixels: must be a whole number of at least 1, not '0'"),
        ([*EXTRACT, "--max-pixels", "-5"], "--max-pixels: must be a whole number of at least 1, not '-5'"),
        ([*EXTRACT, "--max-pixels", "many"], "'many'"),
        ([*EXTRACT, "--colour", "red"], "no option '--colour'; see"),
        ([*EXTRACT, "--reject", "r"], "no option '--reject'; did you mean '--rejects'?"),
    ],
)
def test_extraction_names_the_argument_that_is_wrong(
    argv: list[str], named: str, extract_features: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refusal(extract_features, argv, capsys)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--features, --output"),
        (REDUCE, "--components --variance"),
        (
            [*REDUCE, "--components", "5", "--variance", "0.9"],
            "--variance: not allowed with argument --components",
        ),
        ([*REDUCE, "--components", "0"], "--components: must be a whole number of at least 1, not '0'"),
        ([*REDUCE, "--components", "2.5"], "'2.5'"),
        ([*REDUCE, "--variance", "0"], "--variance: must be a number above 0 and below 1, not '0'"),
        ([*REDUCE, "--variance", "1"], "--variance: must be a number above 0 and below 1, not '1'"),
        ([*REDUCE, "--variance", "95"], "--variance: must be a number above 0 and below 1, not '95'"),
        ([*REDUCE, "--variance", "nan"], "--variance: must be a number above 0 and below 1, not 'nan'"),
        ([*REDUCE, "--variance", "most"], "'most'"),
    ],
)
def test_the_pca_names_the_argument_that_is_wrong(
    argv: list[str], named: str, reduce_pca: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refusal(reduce_pca, argv, capsys)


@pytest.mark.parametrize("name", ["extract_features", "reduce_pca"])
def test_help_shows_the_example_and_the_exit_codes(
    name: str, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(repo, name).main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"spark-submit --py-files image_features.zip {name}.py" in text
    assert cli.EXIT_CODES in text


@pytest.mark.parametrize("name", ["extract_features", "reduce_pca"])
def test_the_options_of_the_example_are_those_that_the_parser_knows(
    name: str, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(repo, name)
    assert module.__doc__
    example = module.__doc__.replace("\\\n", " ").split(f"{name}.py ")[1].split("\n\n")[0].split()
    refused = refusal(module, [*example, "--colour"], capsys)
    assert refused.startswith("error: no option '--colour'; see ")


def test_a_script_that_is_started_with_wrong_arguments_exits_with_2(repo: Path) -> None:
    script = repo / "spark_jobs" / "reduce_pca.py"
    done = subprocess.run(
        [sys.executable, script, *REDUCE, "--components", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: argument --components: must be a whole number of at least 1, not '0'\n"


@pytest.mark.usefixtures("no_jvm")
def test_both_steps_say_in_one_line_what_they_did(
    run: Run, extract_features: ModuleType, reduce_pca: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--sample", str(run.sample), "--model", str(run.model), "--output", str(run.features)]
    assert extract_features.main(argv) == 0
    assert "images 28, features 24 (reused 0), rejects 4, shards 4 (computed 4), " in capsys.readouterr().out
    argv = ["--features", str(run.features), "--output", str(run.root / "pca"), "--variance", "0.9"]
    assert reduce_pca.main(argv) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("images 24, 1280 features to ")
    kept = float(line.split("variance kept ")[1].split("%")[0])
    assert 90 <= kept <= 100


@pytest.mark.usefixtures("no_jvm")
def test_both_steps_print_their_markers_as_json(
    run: Run, extract_features: ModuleType, reduce_pca: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--sample", str(run.sample), "--model", str(run.model), "--output", str(run.features), "--json"]
    assert extract_features.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == values_of(run.features / "_SUCCESS")
    pca = run.root / "pca"
    argv = ["--features", str(run.features), "--output", str(pca), "--components", "5", "--json"]
    assert reduce_pca.main(argv) == 0
    assert json.loads(capsys.readouterr().out) == values_of(pca / "_SUCCESS")


@pytest.mark.usefixtures("no_jvm")
def test_the_pixel_limit_and_the_place_of_the_rejects_reach_the_step(
    run: Run, extract_features: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--sample", str(run.sample), "--model", str(run.model), "--output", str(run.features)]
    argv += ["--max-pixels", "9999", "--rejects", str(run.root / "elsewhere")]
    assert extract_features.main(argv) == 0
    assert "features 0 (reused 0), rejects 28" in capsys.readouterr().out
    assert len(list((run.root / "elsewhere").iterdir())) == 4


@pytest.mark.usefixtures("no_jvm")
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    run: Run, extract_features: ModuleType, reduce_pca: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = str(run.root / "nothing")
    argv = ["--sample", nothing, "--model", str(run.model), "--output", str(run.features)]
    assert extract_features.main(argv) == 2
    assert reduce_pca.main(["--features", nothing, "--output", nothing + "2", "--components", "5"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: ")
    assert nothing in first
    assert nothing in second


def test_an_unexpected_error_is_not_hidden() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.main(broken)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (JobError("b is no bucket"), 2),
        (StorageError("cannot read s3://b/x"), 1),
        (errors.Failed("stopped"), 1),
    ],
    ids=["bad input", "storage", "failed"],
)
def test_failures_and_refusals_have_different_exit_codes(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise error

    assert cli.main(fails) == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_what_the_work_prints_does_not_spoil_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    def talks() -> list[int]:
        print("half way")
        return [1, 2]

    assert cli.main(talks, cli.parser("").parse_args(["--json"])) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ([1, 2], "half way\n")


def test_an_expected_failure_is_not_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise JobError("s3://b/x does not exist")

    assert cli.main(fails) == 2
    assert capsys.readouterr().err == "error: s3://b/x does not exist\n"
