"""Every command explains itself, and reports bad input in one line with exit code 2."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fruit_pipeline.commands import main as commands
from image_features import cli
from support.cli import run_cli
from support.documents import values_of
from support.local_aws import BUCKET, LocalAws

REPO = Path(__file__).parents[3]

Main = Callable[[list[str]], int]

PLACES = ("local_emr", "benchmarks", "infra", "examples", "spark_jobs", "docker", "notebooks")
NOT_FOR_PEOPLE = ("local_emr/node/aws_cli.py", "benchmarks/jobs/", "docker/health.py")
"""The AWS CLI of a local node, what the benchmarks start, and a container's health check."""


def scripts() -> list[Path]:
    """Every file beside the pipeline that is a command, relative to the repository."""
    files = (file for place in PLACES for file in (REPO / place).rglob("*.py"))
    entries = [file.relative_to(REPO) for file in files if 'if __name__ == "__main__"' in file.read_text()]
    return sorted(file for file in entries if not str(file).startswith(NOT_FOR_PEOPLE))


PROGRAMS = [f"{commands.MODULE_CALL} {verb}" for verb in commands.VERBS] + [str(path) for path in scripts()]

every_program = pytest.mark.parametrize("program", PROGRAMS)


def main_of(program: str) -> Main:
    if not program.endswith(".py"):
        verb = program.removeprefix(f"{commands.MODULE_CALL} ")
        return lambda argv: commands.main([verb, *argv])
    path = Path(program)
    spec = importlib.util.spec_from_file_location(f"command_{path.stem}", REPO / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


def call_of(program: str) -> str:
    """How the help shows a call of the program, without arguments."""
    path = Path(program)
    if path.parts[0] == "spark_jobs":
        return f"spark-submit --py-files image_features.zip {path.name}"
    if path.parts[0] == "docker":
        return f"python3 {program}"
    if path.suffix != ".py":
        return program
    return f"python -m {path.parent}" if path.name == "__main__.py" else f"python {program}"


def examples_in(text: str, call: str) -> list[str]:
    """Arguments of the lines of a help text that show a call, after any variables that it is given."""
    lines = text.replace("\\\n", " ").splitlines()
    matches = [re.fullmatch(rf" +(?:[A-Z_]+=\S+ )*{re.escape(call)}( .*)?", line) for line in lines]
    return [match[1] or "" for match in matches if match]


def help_of(program: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main_of(program)(["--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


# The entry


def test_every_module_of_a_command_is_a_verb() -> None:
    modules = {path.stem for path in (REPO / "dags/fruit_pipeline/commands").glob("*.py")}
    assert {verb.replace("-", "_") for verb in commands.VERBS} == modules - {"__init__", "main", "options"}


def test_the_scripts_are_found() -> None:
    expected = {"local_emr/__main__.py", "benchmarks/__main__.py", "infra/plan.py", "docker/preflight.py"}
    assert {*expected, "examples/find_neighbours.py", "spark_jobs/reduce_pca.py"} < set(PROGRAMS)


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)], ids=" ".join)
def test_without_a_verb_every_verb_is_listed_with_one_line(words: tuple[str, ...]) -> None:
    listing = run_cli(*words)
    assert (listing.returncode, listing.stderr) == (0, "")
    lines = listing.stdout.splitlines()
    for verb in commands.VERBS:
        (summary,) = (line.split(None, 1)[1] for line in lines if line.startswith(f"  {verb} "))
        assert 20 < len(summary) <= 100
        assert summary.endswith(".")
    assert max(map(len, lines)) <= 120
    assert cli.EXIT_CODES in listing.stdout


def test_the_list_of_verbs_loads_neither_tensorflow_nor_another_package_and_a_verb_only_its_own() -> None:
    code = """
import sys
from fruit_pipeline.commands.main import main
main([])
assert not {"tensorflow", "pyarrow", "boto3", "obstore", "numpy"} & set(sys.modules)
main(["steps", "--run", "s3://b-1/runs/r1", "--model", "s3://b-1/m", "--components", "5"])
assert not {"tensorflow", "airflow", "fruit_pipeline.report", "fruit_pipeline.demo"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    "start",
    [[sys.executable, "-m", "fruit_pipeline"], [str(Path(sys.executable).with_name("fruit-features"))]],
    ids=["module", "console script"],
)
def test_the_module_and_the_console_script_exit_with_the_code_and_name_themselves(
    start: list[str], tmp_path: Path
) -> None:
    def called(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*start, *words], capture_output=True, text=True, check=False)

    refused = called("sample", "--source", NOWHERE, "--output", str(tmp_path / "out"), "--all")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"error: {NOWHERE} does not exist; expected a folder ")
    assert refused.stderr.count("\n") == 1
    name = "fruit-features" if len(start) == 1 else "python -m fruit_pipeline"
    assert called("--help").stdout.startswith(f"usage: {name} <verb>")


# Help


@every_program
def test_help_says_what_it_does_how_to_call_it_and_the_exit_codes(
    program: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(program, capsys)
    assert examples_in(text, call_of(program))
    if program.startswith(("local_emr", "docker", "notebooks")):  # codes of their own; no result to print
        assert re.search(r"(?i)exit codes:\s+0 .*2 ", text, re.DOTALL)
    else:
        assert cli.EXIT_CODES in text
        assert "--json" in text


class Parsed(Exception):
    """The arguments were valid."""


@every_program
def test_the_examples_of_the_help_are_valid(
    program: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_in(help_of(program, capsys), call_of(program))
    parse = argparse.ArgumentParser.parse_known_args

    def stop_after_parsing(self: argparse.ArgumentParser, argv: list[str], *_: None) -> None:
        assert parse(self, argv)[1] == []
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after_parsing)
    for example in examples:
        with pytest.raises(Parsed):
            main_of(program)(shlex.split(example, comments=True))


# Names that do not exist


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("sampel", "--all"), "error: no verb 'sampel'; did you mean 'sample'?"),
        (("clone_shape",), "error: no verb 'clone_shape'; did you mean 'clone-shape'?"),
        (("fly",), "error: no verb 'fly'; see python -m fruit_pipeline --help"),
        (("check", "--rnu", "r"), "error: no option '--rnu'; did you mean '--run'?"),
        (("check", "--run=r", "--colour=red"), "error: no option '--colour'; see "),
        (("check", "--run", "r", "-run", "r"), "error: no option '-run'; did you mean '--run'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_unknown_verb_or_option_is_one_line_that_names_the_nearest(
    words: tuple[str, ...], line: str
) -> None:
    refused = run_cli(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(line)
    assert refused.stderr.count("\n") == 1


@every_program
def test_every_command_names_the_nearest_option(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = re.findall(r"^  (--[a-z0-9-]+)", help_of(program, capsys), re.MULTILINE)
    assert options
    for option in options:
        misspelt = f"{option}q"
        try:
            code = main_of(program)([misspelt])
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert err.endswith(f": no option {misspelt!r}; did you mean {option!r}?\n")
        assert err.count("\n") == 1


# Results


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("upload-code", "--output", "OUT"), list),
        (("draw-images", "--output", "OUT", "--per-label", "1"), dict),
        (("estimate", "--images", "1000"), dict),
        (("prices",), dict),
        (("cluster", "--run", "s3://b-1/runs/r1", "--wheelhouse", "s3://b-1/w"), dict),
        (("steps", "--run", "s3://b-1/runs/r1", "--model", "s3://b-1/m", "--components", "5"), list),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_one_document_on_stdout(words: tuple[str, ...], kind: type, tmp_path: Path) -> None:
    done = run_cli(*(str(tmp_path / "out") if word == "OUT" else word for word in words), "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert isinstance(document, kind)
    assert document


NOWHERE = "/no/such/folder"
RUN = ("--run", "s3://b-1/runs/r1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "--source", NOWHERE, "--output", "OUT", "--all"), "/no/such/folder does not exist"),
        (("sample", "--source", "ftp://x", "--output", "OUT", "--all"), "only s3://, file:// and plain"),
        (("backbone", "--alpha", "0.4", "--output", "OUT"), "no ImageNet weights for alpha 0.4"),
        (
            ("backbone", "--input-size", "100", "--output", "OUT"),
            "has no input size 100; there are 96, 128",
        ),
        (("backbone", "--precision", "int8", "--output", "OUT"), "give their sample by --sample"),
        (("backbone", "--weights", "/no/such.h5", "--output", "OUT"), "/no/such.h5 does not exist"),
        (("wheelhouse", "--output", "http://x"), "only s3://, file:// and plain paths"),
        (("upload-code", "--output", "ftp://x"), "only s3://, file:// and plain paths are supported"),
        (("cluster", *RUN, "--wheelhouse", "s3://b-1/w", "--shape", "huge"), "unknown cluster shape 'huge'"),
        (("clean", "--run", "s3://b-1/models/m"), "is not a run; expected s3://<bucket>/runs/<run key>"),
        (("clone-shape", "--cluster", "j-1", "--name", "../up"), "small letters, digits, '_' and '-' only"),
        (("steps", *RUN, "--model", "s3://" + "m" * 11_000, "--components", "5"), "EMR allows 10240"),
        (("check", "--run", NOWHERE), "cannot open file:///no/such/folder/sample"),
        (("check", "--run", "EMPTY"), "/sample has no _SUCCESS: the stage that writes it has not finished"),
        (("demo", "--images", NOWHERE, "--weights", "random:0", "--work", "OUT"), "does not exist"),
        (
            ("demo", "--images", "IMAGES", "--weights", "random:0", "--input-size", "9", "--work", "OUT"),
            "no input",
        ),
        (
            ("demo", "--images", "IMAGES", "--weights", "random:0", "--precision", "int8", "--work", "OUT"),
            "int8 needs trained weights",
        ),
        (("demo", "--images", "IMAGES", "--weights", "/no/such.h5", "--work", "OUT"), "does not exist"),
    ],
    ids=lambda value: "-".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    drawn_folder: Path,
) -> None:
    places = {"OUT": str(tmp_path / "out"), "IMAGES": str(drawn_folder), "EMPTY": str(tmp_path)}
    for stage in ("sample", "features", "rejects", "pca"):
        (tmp_path / stage).mkdir()
    refused = run_cli(*(places.get(word, word) for word in words), FRUITS_CACHE_DIR=str(tmp_path / "cache"))
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "--source", NOWHERE, "--output", "x"),
        ("sample", "--source", NOWHERE, "--output", "x", "--all", "--total", "3"),
        ("backbone", "--output", "x", "--alpha", "wide"),
        ("backbone", "--output", "x", "--precision", "int4"),
        ("wheelhouse", "--output", "x", "--target", "laptop"),
        ("cluster",),
        ("steps", *RUN, "--model", "m"),
        ("steps", *RUN, "--model", "m", "--components", "0"),
        ("steps", *RUN, "--model", "m", "--variance", "1.5"),
        ("draw-images", "--output", "x", "--per-label", "0"),
        ("sample", "--source", NOWHERE, "--output", "x", "--total", "0"),
        ("demo", "--precision", "int4"),
        ("demo", "--components", "many"),
        ("demo", "--components", "0"),
        ("demo", "--variance", "2"),
    ],
    ids=lambda words: "-".join(words)[:60],
)
def test_options_that_cannot_be_are_refused_in_one_line(words: tuple[str, ...]) -> None:
    refused = run_cli(*words)
    assert (refused.returncode, refused.stdout) == (2, "")
    (line,) = refused.stderr.splitlines()
    assert line.startswith("error: ")


def test_sample_prints_json_for_machines_and_lines_for_people(drawn_folder: Path, tmp_path: Path) -> None:
    words = ("sample", "--source", str(drawn_folder), "--output", str(tmp_path / "s"), "--per-label", "2")
    machine, people = run_cli(*words, "--json"), run_cli(*words)
    marker = json.loads(machine.stdout)
    assert marker == values_of(tmp_path / "s" / "_SUCCESS")
    assert marker["images"] == 24
    assert people.stdout.splitlines()[0].split() == ["images", "24"]
    assert people.stderr.startswith("reusing the finished sample: 24 images")


@pytest.mark.usefixtures("s3_environment")
def test_commands_reach_a_bucket_by_the_environment(drawn_folder: Path, local_aws: LocalAws) -> None:
    output = f"s3://{BUCKET}/runs/by-command/sample"
    done = run_cli(
        "sample", "--source", str(drawn_folder), "--output", output, "--total", "5", "--label", "Plum"
    )
    assert done.returncode == 0, done.stderr
    assert {"_SUCCESS", "manifest.parquet"} <= set(local_aws.keys("runs/by-command/sample"))


def test_backbone_publishes_the_cached_model(random_backbone: Path, tmp_path: Path) -> None:
    words = ("--alpha", "0.35", "--weights", "random:0", "--output", str(tmp_path), "--json")
    done = run_cli("backbone", *words, FRUITS_CACHE_DIR=str(random_backbone.parents[1]))
    spec = json.loads(done.stdout)
    assert spec["uri"] == f"file://{tmp_path}/{spec['digest']}"
    assert (tmp_path / spec["digest"] / "backbone.tflite").is_file()


def test_cluster_prints_what_the_aws_cli_takes() -> None:
    done = run_cli("cluster", *RUN, "--wheelhouse", "s3://b-1/wheelhouse/abc")
    request = json.loads(done.stdout)
    assert request["Name"] == "image-features r1"
    action = request["BootstrapActions"][0]["ScriptBootstrapAction"]
    assert action == {"Path": "s3://b-1/runs/r1/code/install.sh", "Args": ["s3://b-1/wheelhouse/abc"]}


def test_steps_prints_json_or_commands() -> None:
    words = (*RUN, "--model", "s3://b-1/models/a b", "--variance", "0.9")
    steps = json.loads(run_cli("steps", *words, "--json").stdout)
    lines = run_cli("steps", *words).stdout.splitlines()
    assert [step["Name"] for step in steps] == ["extract features", "reduce with PCA"]
    assert lines[0].startswith("spark-submit --deploy-mode client --py-files s3://b-1/runs/r1/code/")
    assert "--model 's3://b-1/models/a b'" in lines[0]
    assert lines[1].endswith("--variance 0.9")


def test_upload_code_and_draw_images_say_what_they_wrote(tmp_path: Path) -> None:
    done = run_cli("upload-code", "--output", str(tmp_path / "code"))
    assert done.stdout.startswith("uploaded ")
    assert "install.sh" in done.stdout
    assert (tmp_path / "code" / "image_features.zip").is_file()
    done = run_cli("draw-images", "--output", str(tmp_path / "drawn"), "--per-label", "1")
    assert done.stdout == f"drew 12 images below {tmp_path / 'drawn'}\n"
    assert len(list((tmp_path / "drawn").glob("*/*.jpg"))) == 12


def test_check_prints_the_figures_of_a_good_run(standing_run: Path) -> None:
    done = run_cli("check", "--run", str(standing_run), "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["images"], report["features"], report["rejects"]) == (50, 48, 2)
