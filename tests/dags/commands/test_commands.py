"""Every command explains itself, and says bad input in one line with exit code 2."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from image_features import cli
from support.local_aws import BUCKET, LocalAws
from support.processes import command

REPO = Path(__file__).parents[3]

PLACES = ("dags", "local_emr", "benchmarks", "infra", "examples", "spark_jobs")
NOT_FOR_PEOPLE = ("local_emr/node/aws_cli.py", "benchmarks/jobs/")
"""What stands for the AWS CLI on a local node, and what the benchmarks start."""


def entries() -> list[Path]:
    """Every file that is a command, relative to the repository."""
    files = (file for place in PLACES for file in (REPO / place).rglob("*.py"))
    found = [file.relative_to(REPO) for file in files if 'if __name__ == "__main__"' in file.read_text()]
    return sorted(file for file in found if not str(file).startswith(NOT_FOR_PEOPLE))


def started_by(entry: Path) -> str:
    """What its help shows as the command, without arguments."""
    if entry.parts[0] == "spark_jobs":
        return f"spark-submit --py-files image_features.zip {entry.name}"
    if entry.parts[0] in ("infra", "examples"):
        return f"python {entry}"
    parts = entry.with_suffix("").parts
    return "python -m " + ".".join(part for part in parts if part not in ("dags", "__main__"))


def main_of(entry: Path) -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location(f"command_{entry.stem}", REPO / entry)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.main


def fruit(module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(f"fruit_pipeline.{module}", *words, **environment)


def exit_code(module: str, *words: str) -> int:
    """Of the command, run in this process: its ``main`` is all that ``python -m`` runs."""
    main = importlib.import_module(f"fruit_pipeline.{module}").main
    try:
        return main(list(words))
    except SystemExit as ended:  # argparse's way out
        return int(ended.code or 0)


def examples_in(text: str, start: str) -> list[str]:
    """Arguments of the lines of a help text that show the command, after any variables it is given."""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.fullmatch(rf" +(?:[A-Z_]+=\S+ )*{re.escape(start)}( .*)?", line) for line in lines]
    return [match[1] or "" for match in found if match]


def help_of(entry: Path, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main_of(entry)(["--help"])
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    return out


def test_the_commands_are_found() -> None:
    names = {str(entry) for entry in entries()}
    assert {"dags/fruit_pipeline/demo/run.py", "local_emr/__main__.py", "benchmarks/__main__.py"} < names
    assert {"infra/plan.py", "examples/find_neighbours.py", "spark_jobs/reduce_pca.py"} < names


@pytest.mark.parametrize("entry", entries(), ids=str)
def test_help_says_what_it_does_how_to_start_it_and_the_exit_codes(
    entry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(entry, capsys)
    assert examples_in(text, started_by(entry))
    if entry.parts[0] == "local_emr":  # which knows nothing of the pipeline
        assert re.search(r"exit codes:\n  0 .*\n  1 .*\n  2 ", text)
    else:
        assert cli.EXIT_CODES in text
        assert "--json" in text


class Parsed(Exception):
    """The arguments were taken."""


@pytest.mark.parametrize("entry", entries(), ids=str)
def test_the_examples_of_the_help_are_taken(
    entry: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_in(help_of(entry, capsys), started_by(entry))
    parse = argparse.ArgumentParser.parse_args

    def stop_after_parsing(self: argparse.ArgumentParser, argv: list[str]) -> None:
        parse(self, argv)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after_parsing)
    for example in examples:
        with pytest.raises(Parsed):
            main_of(entry)(shlex.split(example, comments=True))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("job_code", "--output", "OUT"), list),
        (("drawn_images", "--output", "OUT", "--per-label", "1"), dict),
        (("estimate", "--images", "1000"), dict),
        (("prices",), dict),
        (("cluster", "--run", "s3://b-1/runs/r1", "--wheelhouse", "s3://b-1/w"), dict),
        (("steps", "--run", "s3://b-1/runs/r1", "--model", "s3://b-1/m", "--components", "5"), list),
        (
            (
                "steps",
                "--run",
                "s3://b-1/runs/r1",
                "--model",
                "s3://b-1/m",
                "--variance",
                "0.9",
                "--commands",
            ),
            list,
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_json_is_one_document_on_stdout(
    words: tuple[str, ...], kind: type, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(tmp_path / "out") if word == "OUT" else word for word in words]
    assert exit_code(*argv, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, kind)
    assert found


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
        (("backbone", "--precision", "int8", "--output", "OUT"), "say with --sample which"),
        (("backbone", "--weights", "/no/such.h5", "--output", "OUT"), "/no/such.h5 does not exist"),
        (("wheelhouse", "--output", "http://x"), "only s3://, file:// and plain paths"),
        (("job_code", "--output", "ftp://x"), "only s3://, file:// and plain paths are supported"),
        (("cluster", *RUN, "--wheelhouse", "s3://b-1/w", "--shape", "huge"), "unknown cluster shape 'huge'"),
        (("clean", "--run", "s3://b-1/models/m"), "is no run; expected s3://<bucket>/runs/<run key>"),
        (("clone", "--cluster", "j-1", "--name", "../up"), "small letters, digits, '_' and '-' only"),
        (("steps", *RUN, "--model", "s3://" + "m" * 11_000, "--components", "5"), "EMR allows 10240"),
        (("checks", "--run", NOWHERE), "cannot open file:///no/such/folder/sample"),
        (("checks", "--run", "EMPTY"), "/sample has no _SUCCESS: the stage that writes it has not finished"),
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
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"OUT": str(tmp_path / "out"), "IMAGES": str(drawn_folder), "EMPTY": str(tmp_path)}
    for stage in ("sample", "features", "rejects", "pca"):
        (tmp_path / stage).mkdir()
    monkeypatch.setenv("FRUITS_CACHE_DIR", str(tmp_path / "cache"))
    assert exit_code(*(places.get(word, word) for word in words)) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert out == ""


def test_the_exit_code_is_that_of_the_process(tmp_path: Path) -> None:
    done = fruit("sample", "--source", NOWHERE, "--output", str(tmp_path / "out"), "--all")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {NOWHERE} does not exist; expected a folder with one sub-folder a label\n"


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
        ("drawn_images", "--output", "x", "--per-label", "0"),
        ("sample", "--source", NOWHERE, "--output", "x", "--total", "0"),
        ("demo", "--precision", "int4"),
        ("demo", "--components", "many"),
        ("demo", "--components", "0"),
        ("demo", "--variance", "2"),
    ],
    ids=lambda words: "-".join(words)[:60],
)
def test_options_that_cannot_be_are_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*words) == 2
    out, err = capsys.readouterr()
    assert "error: " in err.splitlines()[-1]
    assert out == ""


def test_sample_prints_json_for_machines_and_lines_for_people(drawn_folder: Path, tmp_path: Path) -> None:
    words = ("sample", "--source", str(drawn_folder), "--output", str(tmp_path / "s"), "--per-label", "2")
    machine, people = fruit(*words, "--json"), fruit(*words)
    marker = json.loads(machine.stdout)
    assert marker == json.loads((tmp_path / "s" / "_SUCCESS").read_text())
    assert marker["images"] == 24
    assert people.stdout.splitlines()[0].split() == ["images", "24"]
    assert people.stderr.startswith("reusing the finished sample: 24 images")


@pytest.mark.usefixtures("s3_environment")
def test_commands_reach_a_bucket_by_the_environment(drawn_folder: Path, local_aws: LocalAws) -> None:
    output = f"s3://{BUCKET}/runs/by-command/sample"
    done = fruit(
        "sample", "--source", str(drawn_folder), "--output", output, "--total", "5", "--label", "Plum"
    )
    assert done.returncode == 0, done.stderr
    assert {"_SUCCESS", "manifest.parquet"} <= set(local_aws.keys("runs/by-command/sample"))


def test_backbone_publishes_the_cached_model(random_backbone: Path, tmp_path: Path) -> None:
    words = ("--alpha", "0.35", "--weights", "random:0", "--output", str(tmp_path), "--json")
    done = fruit("backbone", *words, FRUITS_CACHE_DIR=str(random_backbone.parents[1]))
    spec = json.loads(done.stdout)
    assert spec["uri"] == f"file://{tmp_path}/{spec['digest']}"
    assert (tmp_path / spec["digest"] / "backbone.tflite").is_file()


def test_cluster_prints_what_the_aws_cli_takes() -> None:
    done = fruit("cluster", *RUN, "--wheelhouse", "s3://b-1/wheelhouse/abc")
    request = json.loads(done.stdout)
    assert request["Name"] == "image-features r1"
    action = request["BootstrapActions"][0]["ScriptBootstrapAction"]
    assert action == {"Path": "s3://b-1/runs/r1/code/install.sh", "Args": ["s3://b-1/wheelhouse/abc"]}


def test_steps_prints_json_or_commands() -> None:
    words = (*RUN, "--model", "s3://b-1/models/a b", "--variance", "0.9")
    steps = json.loads(fruit("steps", *words).stdout)
    lines = fruit("steps", *words, "--commands").stdout.splitlines()
    assert [cli["Name"] for step in steps] == ["extract features", "reduce with PCA"]
    assert lines[0].startswith("spark-submit --deploy-mode client --py-files s3://b-1/runs/r1/code/")
    assert "--model 's3://b-1/models/a b'" in lines[0]
    assert lines[1].endswith("--variance 0.9")


def test_job_code_and_drawn_images_say_what_they_wrote(tmp_path: Path) -> None:
    done = fruit("job_code", "--output", str(tmp_path / "code"))
    assert done.stdout.startswith("uploaded ")
    assert "install.sh" in done.stdout
    assert (tmp_path / "code" / "image_features.zip").is_file()
    done = fruit("drawn_images", "--output", str(tmp_path / "drawn"), "--per-label", "1")
    assert done.stdout == f"drew 12 images below {tmp_path / 'drawn'}\n"
    assert len(list((tmp_path / "drawn").glob("*/*.jpg"))) == 12


def test_checks_prints_the_figures_of_a_good_run(standing_run: Path) -> None:
    done = fruit("checks", "--run", str(standing_run), "--json")
    assert done.returncode == 0
    report = json.loads(done.stdout)
    assert (report["images"], report["features"], report["rejects"]) == (50, 48, 2)
