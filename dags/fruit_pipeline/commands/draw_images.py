"""Draw images by code: twelve kinds of fruit-like shapes, for trials without data.

    python -m fruit_pipeline draw-images --output /tmp/drawn --per-label 40

The same arguments draw the same pixels. The images are JPEG files of 100 x 100 pixels, in one folder a
label.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fruit_pipeline.commands.options import add_options
from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.arguments import Parser, at_least_one


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--output", type=Path, metavar="FOLDER", help="folder to draw into")
    parser.add_argument(
        "--per-label",
        type=at_least_one,
        default=40,
        metavar="N",
        help="images of each label (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    return {"images": draw_folder(args.output, args.per_label), "output": str(args.output)}


def show(result: dict[str, Any]) -> None:
    print(f"drew {result['images']} images below {result['output']}")
