"""Run the whole pipeline on this machine: local AWS, real Airflow, real Spark.

    python -m fruit_pipeline demo
    python -m fruit_pipeline demo --images ~/fruits --weights imagenet --components 50

Without --images it draws 480 images. Without --weights it takes the ImageNet weights; when they
cannot be downloaded, it says so and goes on with random ones. --work holds what it keeps between runs:
Airflow's home, the buckets of the local AWS, drawn images. The run's output is copied to --output. The
result is the run's summary.json.
"""

from __future__ import annotations

import argparse
import logging
from datetime import UTC, datetime
from pathlib import Path

from fruit_pipeline import settings
from fruit_pipeline.commands.options import add_components, add_options
from fruit_pipeline.demo.run import PER_LABEL, Demo, choose_weights, console, run_demo
from fruit_pipeline.model.backbones import BackboneRequest, check_precision
from fruit_pipeline.sample import drawn_images
from fruit_pipeline.sample.sources import Source
from image_features.arguments import Parser
from image_features.contract import RunSummary
from image_features.storage import normalise_uri


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--images", metavar="URI", help="folder or s3:// prefix of <label>/<image>")
    add_options(parser, "--weights", help="imagenet, a Keras weights file without top, or random:<seed>")
    add_options(parser, "--alpha", "--input-size", "--precision")
    add_components(parser, default=50)
    parser.add_argument("--work", type=Path, default=Path(".cache/demo"), help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: %(default)s")


def run(args: argparse.Namespace) -> RunSummary:
    logging.getLogger().setLevel(logging.WARNING)  # the console shows the progress
    demo = _demo(args)
    # Checked before anything starts.
    backbone = BackboneRequest("mobilenet_v2", demo.alpha, demo.weights, demo.input_size)
    backbone.check_weights_file()
    check_precision(demo.precision, backbone)
    if not demo.source.startswith("s3://"):
        Source(demo.source).list()
    return run_demo(demo)


def show(_: RunSummary) -> None:
    """Nothing: the demo has shown its result on the console."""


def _demo(args: argparse.Namespace) -> Demo:
    work = args.work.absolute()
    if args.images:
        source = normalise_uri(args.images)
    else:
        source = normalise_uri(work / "drawn")
        count = drawn_images.draw_folder(work / "drawn", PER_LABEL)
        console.print(f"no images given: drew {count} of {len(drawn_images.KINDS)} kinds")
    return Demo(
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
