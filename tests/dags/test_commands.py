"""Every command explains itself, and says bad input in one line with exit code 2."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path

import pytest
from pipeline_harness import BUCKET, LocalAws, command

COMMANDS = (
    *("sample", "backbone", "wheelhouse", "job_code", "cluster", "steps", "checks", "demo"),
    *("drawn_images", "clean", "clone", "estimate", "prices"),
)


def fruit(module: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return command(f"fruit_pipeline.{module}", *words, **environment)


def exit_code(module: str, *words: str) -> int:
    """Of the command, run in this process: its ``main`` is all that ``python -m`` runs."""
    main = importlib.import_module(f"fruit_pipeline.{module}").main
    try:
        return main(list(words))
    except SystemExit as ended:  # argparse's way out
        return int(ended.code or 0)


def test_every_module_with_a_command_is_tested(repo: Path) -> None:
    files = (repo / "dags" / "fruit_pipeline").glob("*.py")
    assert {file.stem for file in files if "__main__" in file.read_text()} == set(COMMANDS)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_has_an_example_and_the_exit_codes(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(module, "--help") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"    python -m fruit_pipeline.{module}" in out
    assert module == "drawn_images" or "Exit codes: 0 " in out


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
            "takes no input size 100; there are 96, 128",
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
    assert people.stderr.startswith("the sample stands already: 24 images")


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
    assert [step["Name"] for step in steps] == ["extract features", "reduce with PCA"]
    assert lines[0].startswith("spark-submit --deploy-mode client --py-files s3://b-1/runs/r1/code/")
    assert "--model 's3://b-1/models/a b'" in lines[0]
    assert lines[1].endswith("--variance 0.9")


def test_job_code_and_drawn_images_say_what_they_wrote(tmp_path: Path) -> None:
    done = fruit("job_code", "--output", str(tmp_path / "code"))
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
