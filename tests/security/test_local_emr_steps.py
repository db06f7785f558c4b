"""What the local EMR refuses to run or to write: code from elsewhere, and names that lead out of a folder."""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from local_emr.node import aws_cli
from local_emr.node.filesystem import Node
from local_emr.node.s3 import S3Error
from local_emr.node.step_commands import Command, CommandBuilder, RefusedError
from local_emr.settings import Settings
from support.local_aws import SCRIPT_RUNNER, LocalAws

SPARK = ("command-runner.jar", "spark-submit")
JOB = "s3://test-bucket/job.py"


class Bucket:
    """An S3 client that downloads the objects of these tests."""

    def __init__(self) -> None:
        self.objects = {
            "job.py": b"print('the job ran')",
            "dots/..": b"echo out",
            "out.tar.gz": tar(("../../out-of-tar", None)),
            "absolute.tar": tar((f"{tempfile.gettempdir()}/out-of-tar", None)),
            "link.tar.gz": tar(("folder", tempfile.gettempdir()), ("folder/out-of-link", None)),
            "out.zip": zipped("../../out-of-zip", f"{tempfile.gettempdir()}/out-of-zip", "inside"),
        }

    def download_file(self, bucket: str, key: str, path: str) -> None:
        if bucket != "test-bucket" or key not in self.objects:
            raise ClientError({"Error": {"Code": "404", "Message": "Not Found"}}, "HeadObject")
        Path(path).write_bytes(self.objects[key])


def build(folder: Path, *command: str) -> Command:
    """The command of a step on a node in ``folder``."""
    settings = Settings("http://aws", "http://aws", folder, "local", "python3", Path("/java"))
    node = Node(settings, folder / "node", "j-1", "eu-west-3", "i-1")
    node.prepare()
    work = folder / "work"
    work.mkdir()
    return CommandBuilder(node, [], Bucket()).build(command[0], command[1:], work, {})


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
        (("command-runner.jar",), "does not run command-runner.jar"),
        (("command-runner.jar", "bash", "-c", "id"), "does not run command-runner.jar with 'bash'"),
        (("command-runner.jar", "hadoop", "fs", "-ls", "/"), "does not run command-runner.jar with 'hadoop'"),
        (("command-runner.jar", "aws", "s3", "ls"), "does not run command-runner.jar with 'aws'"),
        (("/usr/lib/hadoop/tool.jar",), "does not run /usr/lib/hadoop/tool.jar"),
        (("https://evil.example/my.jar",), "does not run https://evil.example/my.jar"),
        (("s3://evil/libs/script-runner/script-runner.jar", JOB), "does not run s3://evil"),
        # Scripts and code from elsewhere.
        ((SCRIPT_RUNNER, "https://evil.example/a.sh"), "scripts from s3:// only"),
        ((SCRIPT_RUNNER, "../../a.sh"), "scripts from s3:// only"),
        ((SCRIPT_RUNNER, "/bin/true"), "scripts from s3:// only"),
        ((SCRIPT_RUNNER, "file:///bin/true"), "scripts from s3:// only"),
        ((*SPARK, "/etc/passwd"), "is not on the node"),
        ((*SPARK, "https://evil.example/job.py"), "only s3:// URIs and absolute paths of the node"),
        ((*SPARK, "--unheard-of", "x", JOB), "unrecognized option --unheard-of"),
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
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(RefusedError, match=re.escape(words)):
        build(tmp_path, *command)


def test_a_script_that_is_not_in_its_bucket_is_named(tmp_path: Path) -> None:
    with pytest.raises(S3Error, match=r"cannot read s3://test-bucket/missing\.sh"):
        build(tmp_path, SCRIPT_RUNNER, "s3://test-bucket/missing.sh")


@pytest.mark.parametrize("archive", ["out.zip#a", "absolute.tar#a"])
def test_members_that_lead_out_of_an_archive_are_not_written_there(tmp_path: Path, archive: str) -> None:
    build(tmp_path, *SPARK, "--archives", f"s3://test-bucket/{archive}", JOB)
    folder = tmp_path / "work" / "a"
    assert all(path.is_relative_to(folder) for path in tmp_path.rglob("out-of-*"))


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
    with pytest.raises(PermissionError, match=r"has \.\. in it"):
        aws_cli.plan(aws.s3, "s3://test-bucket/tree", ".", recursive=True)


def test_arguments_of_a_step_reach_no_shell(aws: LocalAws) -> None:
    """They are passed on as they are, whatever a shell would make of them."""
    odd = ["$(touch /tmp/out-of-arguments)", "`id`", "; touch /tmp/out-of-arguments", "a b", "*", "'\""]
    cluster = aws.run(aws.script("show", 'printf "<%s>" "$@"', *odd), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    shown = aws.step_log(cluster, aws.steps(cluster)["show"]["Id"], "stdout")
    assert shown == "".join(f"<{value}>" for value in odd)
