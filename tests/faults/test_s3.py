"""S3 that refuses, stalls, forgets its answers, or gives other bytes than were put."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import pytest
from trial import Trial

from support.fault_kinds import (
    BROKEN,
    DENIED,
    THROTTLED,
    Amend,
    CutBody,
    Error,
    LoseAnswer,
    Meanwhile,
    Refuse,
)
from support.faulty_aws import Answer, Call

LISTING = r"list-type=2.*"


class RefuseEach(Refuse):
    """Refuses each call of the same name and path some times, then lets it pass."""

    def __init__(self, error: Error, *names: str, each: int, **which: Any) -> None:
        super().__init__(error, *names, **which)
        self.each, self._met = each, Counter[tuple[str, str]]()

    def catches(self, call: Call, passed: set[str]) -> bool:
        key = (call.name, call.path)
        if self._met[key] >= self.each or not super().catches(call, passed):
            return False
        self._met[key] += 1
        return True


class RefuseSome(Refuse):
    """Refuses each n-th of the calls that it would catch."""

    def __init__(self, error: Error, *names: str, nth: int, **which: Any) -> None:
        super().__init__(error, *names, **which)
        self.nth, self._met = nth, 0

    def catches(self, call: Call, passed: set[str]) -> bool:
        if call.service != self.service:
            return False
        self._met += 1
        return self._met % self.nth == 0 and super().catches(call, passed)


@pytest.mark.fault("S3 answers each fifth call of everyone with an internal error")
def test_internal_errors(trial: Trial) -> None:
    trial.add(RefuseSome(BROKEN, service="s3", nth=5))
    trial.goes_through()


@pytest.mark.fault("S3 says SlowDown: each read and write of the run is refused three times")
def test_slow_down(trial: Trial) -> None:
    trial.add(
        RefuseEach(THROTTLED, "GET", "PUT", each=3, service="s3", path=f"{trial.prefix}/(features|pca)/")
    )
    trial.goes_through()


@pytest.mark.fault("S3 says SlowDown without an end, at one shard of the sample")
def test_slow_down_for_ever(trial: Trial) -> None:
    trial.add(Refuse(THROTTLED, "GET", path=f"{trial.prefix}/sample/shard-00001"))
    trial.fails(r"cannot read \S+/sample/shard-00001.parquet: S3 says SlowDown .*")


@pytest.mark.parametrize(
    ("who", "name", "path", "cause"),
    [
        ("a step may not read the sample", "GET", "sample/shard-00001", r"cannot read .*s3:GetObject.*"),
        ("a step may not write features", "PUT", "features/shard-00001", r"cannot write .*s3:PutObject.*"),
        ("the check may not read", "GET", "pca/_SUCCESS", r"cannot read .*s3:GetObject.*"),
    ],
    ids=["get", "put", "check"],
)
@pytest.mark.fault("permission is withdrawn in mid-run: {who}")
def test_denied(trial: Trial, who: str, name: str, path: str, cause: str) -> None:
    trial.add(Refuse(DENIED, name, service="s3", path=f"{trial.prefix}/{path}"))
    trial.fails(cause)


def broken_off(trial: Trial, length_matches: bool) -> None:
    for path in ("sample/shard-00001", "features/shard-00002", "features/_SUCCESS", "sample/_SUCCESS"):
        trial.add(CutBody("GET", length_matches=length_matches, path=f"{trial.prefix}/{path}"))
    trial.add(CutBody("GET", length_matches=length_matches, path=r"/models/.*/backbone\.tflite"))


@pytest.mark.fault("connections break in the middle of shards, markers and the model")
def test_broken_off(trial: Trial) -> None:
    broken_off(trial, length_matches=False)
    trial.goes_through()


@pytest.mark.quick
@pytest.mark.fault("shards, markers and the model arrive cut, with the length of the cut")
def test_cut(trial: Trial) -> None:
    broken_off(trial, length_matches=True)
    trial.goes_through()


def flipped(call: Call, answer: Answer) -> Answer:
    body = bytearray(answer.body)
    body[len(body) // 2] ^= 1
    return Answer(answer.status, answer.headers, bytes(body))


@pytest.mark.fault("a bit of a sample shard, of features, embeddings and the model flips on its way")
def test_flipped(trial: Trial) -> None:
    for path in (
        f"{trial.prefix}/sample/shard-00001",
        f"{trial.prefix}/features/shard-00002",
        r"backbone\.tflite",
    ):
        trial.add(Amend(flipped, "GET", path=path, times=1))
    trial.add(Amend(flipped, "GET", path=f"{trial.prefix}/pca/shard-00001", times=1))
    trial.goes_through()


@pytest.mark.fault("a wheel arrives cut at a node")
def test_cut_wheel(trial: Trial) -> None:
    trial.add(CutBody("GET", length_matches=True, path=r"/wheelhouse/.*/numpy.*\.whl"))
    trial.fails(r"BOOTSTRAP_FAILURE.*")


@pytest.mark.fault("S3 takes 30 seconds for a read, a write and a listing of the extraction")
def test_latency(trial: Trial) -> None:
    for name, path in (
        ("GET", "sample/shard-00001"),
        ("PUT", "features/shard-00002"),
        ("PUT", "features/_SUCCESS"),
    ):
        trial.add(Meanwhile(lambda _: time.sleep(30), name, path=f"{trial.prefix}/{path}"))
    trial.goes_through()


@pytest.mark.fault("the answers to writes of a sample shard, a features shard and the markers are lost")
def test_lost_answers(trial: Trial) -> None:
    for path in ("sample/shard-00001", "features/shard-00002", "features/_SUCCESS", "pca/_SUCCESS"):
        trial.add(LoseAnswer("PUT", path=f"{trial.prefix}/{path}"))
    trial.goes_through()


@pytest.mark.fault("a rerun's listing lacks a shard that stands, and has one that is gone")
def test_stale_listing(trial: Trial) -> None:
    trial.copy_undisturbed()

    def stale(call: Call, answer: Answer) -> Answer:
        found = answer.body.decode()
        rows = re.findall(r"<Contents>.*?</Contents>", found, re.DOTALL)
        third = next(row for row in rows if "shard-00003" in row)
        gone = third.replace("shard-00003", "shard-00099")
        return Answer(answer.status, answer.headers, found.replace(third, gone).encode())

    listed = f"{LISTING}prefix=runs/{trial.run_key}/features/"
    trial.add(Amend(stale, "GET", path=listed, times=1))
    trial.goes_through()


@pytest.mark.fault("a listing of the features is broken off, and one of the check")
def test_broken_listing(trial: Trial) -> None:
    for folder in ("features", "rejects"):
        trial.add(CutBody("GET", path=f"{LISTING}prefix=runs/{trial.run_key}/{folder}/"))
    trial.goes_through()
