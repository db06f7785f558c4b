"""The Spark session of a step: what Spark gives up on is one line."""

from __future__ import annotations

import errno
import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from image_features.errors import Failed
from image_features.spark import spark_session

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Builder:
    """SparkSession.builder without a JVM."""

    def appName(self, _: str) -> Builder:
        return self

    def config(self, *_: str) -> Builder:
        return self

    def getOrCreate(self) -> Any:
        return SimpleNamespace(stop=lambda: None)


@pytest.fixture(autouse=True)
def no_jvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyspark.sql.SparkSession", SimpleNamespace(builder=Builder()))


def broadcast_to_a_full_disk() -> None:
    """What pyspark.broadcast does: it pickles into a file, and raises another error."""
    try:
        raise NO_SPACE
    except OSError as error:
        raise pickle.PicklingError(f"Could not serialize broadcast: {error}")  # noqa: B904


def write_to_a_full_disk() -> None:
    raise NO_SPACE


@pytest.mark.parametrize("work", [broadcast_to_a_full_disk, write_to_a_full_disk])
def test_a_full_disk_is_one_line_with_the_advice(work: Any) -> None:
    full = r"the node's disk is full; take a shape with more ebs_gb"
    with pytest.raises(Failed, match=full) as caught, spark_session("step"):
        work()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.EACCES, "No space left on device"), pickle.PicklingError("cannot pickle")]
)
def test_another_error_passes_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, spark_session("step"):
        raise error
    assert caught.value is error


def test_a_jvm_that_ended_is_one_line() -> None:
    with (
        pytest.raises(Failed, match=r"Spark's JVM has ended, .*ConnectionRefusedError"),
        spark_session("step"),
    ):
        raise ConnectionRefusedError
