"""Images drawn by code: twelve kinds of fruit-like shapes, for a demo and tests without data.

    python -m fruit_pipeline draw-images --output /tmp/drawn --per-label 40

Deterministic: the same arguments draw the same pixels. They are saved as JPEG, 100 x 100.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fruit_pipeline.sample.drawn_images import draw_folder
from image_features.cli import at_least_one


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--output", required=True, type=Path, help="folder to draw into")
    parser.add_argument(
        "--per-label", type=at_least_one, default=40, help="images a label (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        return {"images": draw_folder(args.output, args.per_label), "output": str(args.output)}

    return commands_cli.run(
        run, args, show=lambda done: print(f"drew {done['images']} images below {done['output']}")
    )
