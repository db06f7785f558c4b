"""The two threads beside a worker's own: one reads ahead, one writes behind."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

_kept: list[tuple[ThreadPoolExecutor, ThreadPoolExecutor]] = []


def reader_and_writer() -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
    """The process's reader and its writer, of one thread each: started once, kept for the tasks that follow.

    CPython's Thread.start waits for ever for a thread that gets no memory for its first frame. A worker that
    has come to the end of its memory must fail, so that Spark replaces it: it starts no thread by then.
    """
    if not _kept:
        made = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        for pool in made:
            pool.submit(int).result()  # a pool starts its thread with its first work
        _kept.append(made)
    return _kept[0]
