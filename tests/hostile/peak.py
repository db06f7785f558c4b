"""Decodes files, each in a process of its own, and prints what became of it and what memory it took.

    python peak.py MAX_PIXELS FILE ...

A line of JSON a file: its name, the outcome ("image", a reject's reason, or an exception's name), and the
rise of the largest resident size in bytes. VmHWM and not ru_maxrss: that one is inherited from the parent.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from image_features.images import RejectedImage, decode_rgb

SIZE = 32


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def look(path: Path, max_pixels: int) -> None:
    content = path.read_bytes()
    before = _status("VmRSS")
    try:
        outcome = "image" if decode_rgb(content, SIZE, max_pixels).shape == (SIZE, SIZE, 3) else "no image"
    except RejectedImage as reject:
        outcome = reject.reason.value
    except BaseException as error:
        outcome = repr(error)
    print(json.dumps([path.name, outcome, max(0, _status("VmHWM") - before)]), flush=True)


def main() -> None:
    max_pixels, *files = sys.argv[1:]
    for file in files:
        child = os.fork()
        if not child:
            look(Path(file), int(max_pixels))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps([Path(file).name, f"ended with status {status}", 0]), flush=True)


if __name__ == "__main__":
    main()
