"""Benchmarks of the pipeline. Each one compares two sides in one run on this machine.

    python -m benchmarks --quick
    python -m benchmarks --quick --only limit pca --scale 0.2
    python -m benchmarks --full --images ~/fruits --weights ~/mobilenetv2_no_top.h5

Without --images, images are drawn by code; without --weights, weights are random. Results are written to
results.json and RESULTS.md in --output; results of benchmarks that are not run are kept.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import (
    growth,
    keras_loop,
    limit,
    load,
    machine,
    notebook,
    pca,
    precision,
    report,
    single,
    stages,
)
from benchmarks.context import Context
from fruit_pipeline.model.backbones import BackboneRequest
from image_features import cli, errors
from image_features.arguments import at_least_one, number
from image_features.errors import JobError

BENCHMARKS = {
    "notebook": notebook.run,
    "single": single.run,
    "keras": keras_loop.run,
    "limit": limit.run,
    "pca": pca.run,
    "precision": precision.run,
    "growth": growth.run,
    "load": load.run,
    "stages": stages.run,
}


above_zero = number(float, "a number above 0", lambda value: value > 0)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser(__doc__, "python -m benchmarks")
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--quick", action="store_true", help="small sizes, few repeats: some minutes")
    size.add_argument("--full", action="store_true", help="the published sizes: 80 minutes, longer with load")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of <label>/<image>.jpg")
    parser.add_argument("--weights", default="random:0", help="imagenet, a file, or random:<seed> (default)")
    parser.add_argument(
        "--only", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("--scale", type=above_zero, default=1.0, help="multiply all sizes (default: 1)")
    parser.add_argument("--repeats", type=at_least_one, help="overrides each benchmark's own number")
    parser.add_argument("--cores", type=at_least_one, default=machine.usable_cores(), help="default: all")
    parser.add_argument(
        "--work", type=Path, help="folder for scratch files, which are kept (default: a temporary one)"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks"), help="default: %(default)s")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    # SIGTERM becomes an exception, so that a running Spark job is stopped and the scratch folder is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def run() -> list[report.Result]:
        weights = BackboneRequest("mobilenet_v2", 1.0, args.weights)
        weights.check_weights_file()
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
            context = Context(
                work=(args.work or Path(scratch)).absolute(),
                full=args.full,
                images=args.images.expanduser().absolute() if args.images else None,
                weights=str(weights.weights_file.absolute()) if weights.weights_file else args.weights,
                scale=args.scale,
                repeats=args.repeats,
                cores=args.cores,
            )
            return run_all(context, args.only or list(BENCHMARKS), args.output)

    cli.log_to_stderr()
    return cli.main(run, args, show=lambda _: None)  # each result was printed already


def run_all(context: Context, names: list[str], output: Path) -> list[report.Result]:
    """Run benchmarks one after another. A failed benchmark does not stop the others.

    Raises Failed at the end if one failed.
    """
    machine_description = machine.describe()
    results, failed = [], []
    for name in names:
        print(f"{name} ...", flush=True)
        started = time.monotonic()
        try:
            result = BENCHMARKS[name](context)
        except JobError as error:
            print(f"{name} failed: {error}", file=sys.stderr, flush=True)
            failed.append(name)
            continue
        seconds = time.monotonic() - started
        result = dataclasses.replace(
            result, seconds=round(seconds, 1), date=f"{datetime.now(UTC):%Y-%m-%d}", settings=context.settings
        )
        report.save(output, machine_description, result)
        results.append(result)
        for item in result.rows:
            show(item)
        print(f"{name} took {seconds:.0f} s", flush=True)
    print(f"tables: {output / report.TABLE_NAME}")
    if failed:
        raise errors.Failed(f"failed: {', '.join(failed)}")
    return results


def show(item: report.Row) -> None:
    size = f"{item.size:,}" if item.size is not None else ""
    ratio = report.ratio_text(dataclasses.asdict(item))
    outcome = {True: f"goal {item.goal}: reached", False: f"goal {item.goal}: NOT REACHED", None: ""}
    print(
        f"  {item.what:62} {size:>8} {report.number(item.ours):>9} {report.number(item.other):>9} "
        f"{item.unit:8} {ratio:>8}  {outcome[item.reached]}".rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
