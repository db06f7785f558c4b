"""What the local EMR refuses to run or to write: code from elsewhere, and names that lead out of a folder."""

from __future__ import annotations

import io
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.local_aws import SCRIPT_RUNNER, LocalAws, step

SPARK = ("command-runner.jar", "spark-submit")
JOB = "s3://test-bucket/job.py"


@pytest.fixture(scope="module", autouse=True)
def _objects(aws: LocalAws) -> None:
    aws.put("job.py", "print('the job ran')")
    aws.put("dots/..", "echo out")
    aws.put("out.tar.gz", tar(("../../out-of-tar", None)))
    aws.put("absolute.tar", tar((f"{tempfile.gettempdir()}/out-of-tar", None)))
    aws.put("link.tar.gz", tar(("folder", tempfile.gettempdir()), ("folder/out-of-link", None)))
    aws.put("out.zip", zipped("../../out-of-zip", f"{tempfile.gettempdir()}/out-of-zip", "inside"))


def tar(*members: tuple[str, str | None]) -> bytes:
    """A tar file of empty files, or links where a second name is given."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w:gz") as archive:
        for name, target in members:
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return body.getvalue()


def zipped(*names: str) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return body.getvalue()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        # Other programs, other jars.
        (("command-runner.jar", "hadoop", "fs", "-ls", "/"), "does not run command-runner.jar with 'hadoop'"),
        (("command-runner.jar", "aws", "s3", "ls"), "does not run command-runner.jar with 'aws'"),
        (("/usr/lib/hadoop/tool.jar",), "does not run /usr/lib/hadoop/tool.jar"),
        (("https://evil.example/my.jar",), "does not run https://evil.example/my.jar"),
        (("s3://evil/libs/script-runner/script-runner.jar", JOB), "does not run s3://evil"),
        # Scripts and code from elsewhere.
        ((SCRIPT_RUNNER, "https://evil.example/a.sh"), "scripts from s3:// only"),
        ((SCRIPT_RUNNER, "../../a.sh"), "scripts from s3:// only"),
        ((*SPARK, "file:///etc/hostname"), "only s3:// URIs and absolute paths of the node"),
        ((*SPARK, "/opt/../../../../../../../../../../etc/hostname"), "is not on the node"),
        ((*SPARK, "--jars", "https://evil.example/a.jar", JOB), "only s3:// URIs"),
        ((*SPARK, "--conf", "spark.jars=https://evil.example/a.jar", JOB), "only s3:// URIs"),
        ((*SPARK, "--conf", "spark.submit.pyFiles=/etc/hostname", JOB), "is not on the node"),
        ((*SPARK, "--packages", "a:b:1", JOB), "takes code from s3:// buckets only"),
        ((*SPARK, "--repositories=https://evil.example", JOB), "takes code from s3:// buckets only"),
        ((*SPARK, "--conf", "spark.jars.packages=a:b:1", JOB), "takes code from s3:// buckets only"),
        ((*SPARK, "--conf", "spark.jars.ivySettings=/tmp/a.xml", JOB), "takes code from s3:// buckets only"),
        # Names that lead out of the step's folder.
        ((SCRIPT_RUNNER, "s3://test-bucket/dots/.."), "plain file name"),
        ((*SPARK, "s3://test-bucket/dots/.."), "plain file name"),
        ((*SPARK, "--files", f"{JOB}#..", JOB), "plain file name"),
        ((*SPARK, "--files", f"{JOB}#../../x", JOB), "plain file name"),
        ((*SPARK, "--files", f"{JOB}#/etc/x", JOB), "plain file name"),
        ((*SPARK, "--archives", "s3://test-bucket/out.zip#..", JOB), "plain file name"),
        # Members of an archive that do.
        ((*SPARK, "--archives", "s3://test-bucket/out.tar.gz#a", JOB), "outside the destination"),
        ((*SPARK, "--archives", "s3://test-bucket/link.tar.gz#a", JOB), "outside the destination"),
    ],
)
def test_a_step_of_code_from_elsewhere_or_that_leads_out_is_refused(
    aws: LocalAws, command: tuple[str, ...], words: str
) -> None:
    cluster = aws.run(step(*command, name="refused"), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    status = aws.steps(cluster)["refused"]["Status"]
    assert status["State"] == "FAILED"
    assert words in status["FailureDetails"]["Message"]
    assert status["FailureDetails"]["Reason"] != "Internal error"


@pytest.mark.parametrize("archive", ["out.zip#a", "absolute.tar#a"])
def test_members_that_lead_out_of_an_archive_are_not_written_there(aws: LocalAws, archive: str) -> None:
    cluster = aws.run(step(*SPARK, "--archives", f"s3://test-bucket/{archive}", JOB, name="odd"), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    assert aws.steps(cluster)["odd"]["Status"]["State"] in ("COMPLETED", "FAILED")


@pytest.fixture(autouse=True)
def _nothing_outside() -> Iterator[None]:
    """None of the archives' members may lie where they lead to, before or after a test."""
    yield
    assert list(Path(tempfile.gettempdir()).glob("out-of-*")) == []


def test_a_bootstrap_action_whose_name_leads_out_ends_the_cluster_with_its_reason(aws: LocalAws) -> None:
    action = {"Path": "s3://test-bucket/dots/..", "Args": []}
    cluster = aws.run(BootstrapActions=[{"Name": "out", "ScriptBootstrapAction": action}])
    reason = aws.wait_cluster(cluster, "TERMINATED_WITH_ERRORS")["StateChangeReason"]
    assert reason["Code"] == "BOOTSTRAP_FAILURE"


def test_a_recursive_copy_to_the_node_refuses_keys_that_lead_out(aws: LocalAws) -> None:
    aws.put("tree/../../out", "x")
    cluster = aws.run(aws.script("copy", "aws s3 cp --recursive s3://test-bucket/tree ."), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    status = aws.steps(cluster)["copy"]["Status"]
    assert status["State"] == "FAILED"
    assert "has .. in it" in status["FailureDetails"]["Message"]


def test_arguments_of_a_step_reach_no_shell(aws: LocalAws) -> None:
    """They are passed on as they are, whatever a shell would make of them."""
    odd = ["$(touch /tmp/out-of-arguments)", "`id`", "; touch /tmp/out-of-arguments", "a b", "*", "'\""]
    cluster = aws.run(aws.script("show", 'printf "<%s>" "$@"', *odd), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    shown = aws.step_log(cluster, aws.steps(cluster)["show"]["Id"], "stdout")
    assert shown == "".join(f"<{value}>" for value in odd)
