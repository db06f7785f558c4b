"""A worker whose memory is used up continues or fails; it never waits forever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from image_features import extract_worker
from image_features.extract_worker import reader_and_writer

AT_THE_END_OF_MEMORY = """
import os, resource
from image_features.extract_worker import reader_and_writer
reader_and_writer()
resource.setrlimit(resource.RLIMIT_AS, (1, 1))
for pool in reader_and_writer():
    pool.submit(int).result()
os._exit(7)
"""


def test_the_threads_of_a_task_are_those_of_the_task_before() -> None:
    assert reader_and_writer() is reader_and_writer()


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS does nothing elsewhere")
def test_a_task_starts_no_thread_when_its_worker_gets_no_more_memory() -> None:
    folder = Path(extract_worker.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", AT_THE_END_OF_MEMORY], cwd=folder, timeout=300, check=False)
    assert done.returncode == 7
