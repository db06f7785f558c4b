"""The whole pipeline on this machine: local AWS, real Airflow, real Spark, from one command.

    python -m fruit_pipeline demo
    python -m fruit_pipeline demo --images ~/fruits --weights imagenet --components 50

Without --images it draws 480 images. Without --weights it takes the ImageNet weights, and when
they cannot be downloaded says so and goes on with random ones. Everything that it keeps between
runs (Airflow's home, the local AWS's buckets, exported models) lies in --work; the run's output is
copied to --output.

The result is the run's summary.json.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.commands import cli as commands_cli
from fruit_pipeline.demo.run import PER_LABEL, Demo, choose_weights, console, run
from fruit_pipeline.model.backbones import (
    DEFAULT_INPUT_SIZE,
    INPUT_SIZES,
    PRECISIONS,
    BackboneRequest,
    check_precision,
)
from fruit_pipeline.sample import drawn_images
from fruit_pipeline.sample.sources import Source
from image_features import cli, errors
from image_features.cli import at_least_one, share
from image_features.storage import normalise_uri


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--images", metavar="URI", help="folder or s3:// prefix of <label>/<image>")
    parser.add_argument("--weights", help="imagenet, a Keras weights file without top, or random:<seed>")
    parser.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: %(default)s)")
    parser.add_argument(
        "--input-size",
        type=int,
        default=DEFAULT_INPUT_SIZE,
        metavar="PIXELS",
        help=f"{', '.join(map(str, INPUT_SIZES))} (default: %(default)s)",
    )
    parser.add_argument(
        "--precision", default="float32", choices=PRECISIONS, help="int8 is twice as fast and coarser"
    )
    kept = parser.add_mutually_exclusive_group()
    kept.add_argument("--components", type=at_least_one, default=50, help="default: %(default)s")
    kept.add_argument("--variance", type=share, help="share of variance to keep, in place of --components")
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: %(default)s")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    work = args.work.absolute()

    def prepare() -> Demo:
        if args.images:
            source = normalise_uri(args.images)
        else:
            source = normalise_uri(work / "drawn")
            count = drawn_images.draw_folder(work / "drawn", PER_LABEL)
            console.print(f"no images given: drew {count} of {len(drawn_images.KINDS)} kinds")
        demo = Demo(
            work=work,
            output=args.output.absolute(),
            source=source.removeprefix("file://"),
            weights=choose_weights(args.weights, args.alpha, args.input_size),
            alpha=args.alpha,
            components=args.components,
            variance=args.variance,
            run_key=f"demo-{datetime.now(UTC):%Y%m%d-%H%M%S}",
            region=settings.load().region,
            input_size=args.input_size,
            precision=args.precision,
        )
        # What can be known to be wrong is said before anything starts.
        backbone = BackboneRequest("mobilenet_v2", demo.alpha, demo.weights, demo.input_size)
        backbone.check_weights_file()
        check_precision(demo.precision, backbone)
        if not demo.source.startswith("s3://"):
            Source(demo.source).list()
        return demo

    def work_through() -> dict[str, Any]:
        try:
            return asdict(run(prepare()))
        except KeyboardInterrupt:
            raise errors.Failed("stopped") from None

    return commands_cli.run(work_through, args, show=lambda _: None)  # shown as it went
