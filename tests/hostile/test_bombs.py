"""Files that ask for much get no more memory than an honest image of the largest size."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from bombs import DECODE, LIMIT, bombs

from image_features.contract import RejectReason
from image_features.images import BYTES_PER_PIXEL

FIXED = 64 * 2**20  # decoders, libraries that are loaded at the first file of a format


@dataclass(frozen=True)
class Look:
    outcome: str
    rise: int  # bytes
    size: int  # of the file, bytes


@pytest.fixture(scope="module")
def looks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Look]:
    folder = tmp_path_factory.mktemp("bombs")
    contents = bombs()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    script = Path(__file__).with_name("peak.py")
    command = [sys.executable, str(script), str(LIMIT), *(str(folder / name) for name in contents)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: Look(outcome, rise, len(contents[name])) for name, outcome, rise in found}


def test_each_bomb_is_a_reject_or_the_small_image_that_it_begins_with(looks: dict[str, Look]) -> None:
    reasons = {reason.value for reason in RejectReason}
    assert {
        name: look.outcome for name, look in looks.items() if look.outcome not in reasons
    } == dict.fromkeys(DECODE, "image")
    assert len(looks) == len(bombs())


def test_no_bomb_takes_more_memory_than_an_image_of_the_largest_size(looks: dict[str, Look]) -> None:
    allowed = LIMIT * BYTES_PER_PIXEL + FIXED
    over = {name: look.rise >> 20 for name, look in looks.items() if look.rise > allowed + look.size}
    assert over == {}


@pytest.mark.parametrize(
    "name",
    [
        "png 50001 x 50001.png",
        "gif canvas.gif",
        "tiff tile.tif",
        "webp canvas.webp",
        "webp frame.webp",
        "jpeg without data.jpg",
        "jp2 larger than its header says.jp2",
        "avif claim.avif",
        "bmp.bmp",
        "ppm.ppm",
    ],
)
def test_a_claim_of_too_many_pixels_is_named_as_that(name: str, looks: dict[str, Look]) -> None:
    assert looks[name].outcome == RejectReason.TOO_MANY_PIXELS
