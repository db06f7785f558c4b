"""The triggerer's polls of the progress of a step: the first one, and a later one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from benchmarks.jobs import command
from fruit_pipeline.run.progress import FOLLOWERS
from image_features.contract import RunLayout
from image_features.storage import Storage

if __name__ == "__main__":
    args = command.parse(__doc__, "run", "stage")
    started = datetime.now(UTC) - timedelta(hours=24)
    follower = FOLLOWERS[args.stage](RunLayout(args.run), Storage)
    seconds = []
    for _ in range(2):
        at = time.monotonic()
        progress = follower.poll(started, datetime.now(UTC))
        seconds.append(time.monotonic() - at)
    command.answer(first=seconds[0], further=seconds[1], done=progress.done, total=progress.total)
