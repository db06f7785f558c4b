"""Credentials of a deployment are nowhere but where it put them, whether its runs succeed or fail.

Keys, tokens and secrets of Airflow are made up, planted in a connection and in the environment, and searched
for afterwards: in every log, in Airflow's database byte by byte, in every object of the bucket, in the output
of a run and in the command lines of all processes.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from planting import HOSTILE_LABELS, SMALL, CommandLines, Planted, connection_of

from fruit_pipeline.demo import run as demo_run
from image_features.contract import shard_key
from support.stages import DagRun, Stage

pytestmark = pytest.mark.e2e


def places_with(planted: Planted, stage: Stage, source: Path) -> list[str]:
    """Every file and object that holds a planted value, with what it holds."""
    demo_run.copy_output(replace(stage.demo, run_key="planted"), stage.aws)
    found = []
    files = [path for path in stage.demo.work.rglob("*") if path.is_file()]
    assert {"airflow.db", "report.html", "summary.json", "local_emr.log", "planted.log"} <= {
        path.name for path in files
    }
    for path in files:
        if names := planted.found_in(path.read_bytes()):
            found.append(f"{path.relative_to(stage.demo.work)}: {sorted(names)}")
    storage = stage.aws.storage(f"s3://{demo_run.BUCKET}")
    objects = list(storage.list())
    assert len(objects) > 30
    for obj in objects:
        if names := planted.found_in(storage.get(obj.key).to_pybytes()):
            found.append(f"s3://{demo_run.BUCKET}/{obj.key}: {sorted(names)}")
    return found


def test_what_was_planted_was_used_and_would_be_found(
    planted: Planted, stage: Stage, finished: DagRun
) -> None:
    assert finished.ok
    assert planted.found_in(connection_of(planted, "").encode()) == {"key", "secret", "token"}
    assert planted.found_in(gzip.compress(planted["jwt"].encode())) == {"jwt"}
    assert planted.found_in(quote(planted["secret"], safe="").encode()) == {"secret"}
    assert planted.found_in(stage.environment["AIRFLOW__CORE__FERNET_KEY"].encode()) == {"fernet"}


def test_a_run_that_succeeds_leaves_no_credential_anywhere(
    planted: Planted, stage: Stage, finished: DagRun, source: Path
) -> None:
    assert places_with(planted, stage, source) == []


def damaged(stage: Stage) -> None:
    storage = stage.run_storage("planted")
    storage.put(f"sample/{shard_key(0)}", b"no parquet at all")
    storage.delete([f"features/{shard_key(0)}"])


def uri_connection(planted: Planted, endpoint: str) -> str:
    """The same connection as a URI, as many deployments write it."""
    login, password = (quote(planted[name], safe="") for name in ("key", "secret"))
    token = quote(planted["token"], safe="")
    where = quote(endpoint, safe="")
    return f"aws://{login}:{password}@/?region_name=eu-west-3&endpoint_url={where}&aws_session_token={token}"


BROKEN_ENDPOINTS = {"nothing answers": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("case", "params", "words"),
    [
        ("a step that fails", {}, "AirflowFailException: step"),
        ("no such bucket", {"bucket": "no-such-bucket-here"}, "it does not exist; create it"),
        ("nothing answers", {}, "does not answer"),
    ],
)
def test_a_run_that_fails_leaves_no_credential_anywhere(
    planted: Planted,
    stage: Stage,
    finished: DagRun,
    source: Path,
    case: str,
    params: dict[str, Any],
    words: str,
) -> None:
    failing = stage
    if case == "a step that fails":
        damaged(stage)
    if case in BROKEN_ENDPOINTS:
        connection = uri_connection(planted, BROKEN_ENDPOINTS[case])
        failing = stage.with_environment(AIRFLOW_CONN_AWS_LOCAL=connection)
    key = "planted" if case == "a step that fails" else f"fails-{case.replace(' ', '-')}"
    run = failing.run(key, source=str(source), labels=list(HOSTILE_LABELS), **SMALL, **params)
    assert not run.ok
    assert words in run.log, run.log[-3000:]
    assert places_with(planted, stage, source) == []


def test_no_process_had_a_credential_in_its_command_line(
    command_lines: CommandLines, finished: DagRun, source: Path
) -> None:
    lines = b"\n".join(command_lines.seen).replace(b"\0", b" ")
    assert b"dags test" in lines
    assert b"extract_features.py" in lines, "the steps' processes were not seen"
    assert command_lines.found == set()
