"""What a run takes and costs on its cluster: before it, as an estimate, and after it, by the clock.

    python -m fruit_pipeline estimate --images 67692 --shape standard

Only the cluster is estimated, from the request to its end: drawing and uploading the sample cost
time on the Airflow worker, and no money to speak of.

How it is worked out. Extraction is images / (vCPUs x images a second and vCPU), and one shard for
the cores that finish last. The images a second are measured (RATE), then reduced to what a vCPU of
EC2 does of the core that they were measured on (VCPU_SPEEDS: assumed, on the safe side). Start,
bootstrap and step overheads are constants. Every node costs EC2's price, EMR's fee and its volumes
for the whole time. Three cases:

- expected: Spot where the shape asks for it, at the mean of the fleet's types.
- low: the cheapest and the fastest of the types, and vCPUs half as fast again as assumed.
- high: all on demand, as when Spot has none left, at the dearest and slowest type, vCPUs half as
  fast as assumed, a slow start and the whole time that Spot is tried for.

A run that resumes or reuses computes less; the estimate does not count on it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fruit_pipeline.cost.estimate import Work, estimate, table
from fruit_pipeline.cost.measured import SMALL_IMAGE_BYTES
from fruit_pipeline.model.backbones import BACKBONES, DEFAULT_INPUT_SIZE, INPUT_SIZES, PRECISIONS
from image_features.errors import JobError


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.cluster.shapes import load_shape
    from fruit_pipeline.commands import cli as commands_cli
    from fruit_pipeline.cost import prices
    from image_features import cli
    from image_features.cli import at_least_one

    parser = cli.parser(__doc__)
    parser.add_argument("--images", required=True, type=at_least_one, metavar="N")
    parser.add_argument("--shape", default="small", help="default: %(default)s")
    parser.add_argument("--region", help="default: FRUITS_REGION")
    parser.add_argument(
        "--image-bytes",
        type=at_least_one,
        default=SMALL_IMAGE_BYTES,
        metavar="BYTES",
        help="of a file, on average (default: %(default)s)",
    )
    parser.add_argument("--backbone", default="mobilenet_v2", choices=sorted(BACKBONES))
    parser.add_argument("--alpha", type=float, default=1.0, help="width multiplier (default: %(default)s)")
    parser.add_argument(
        "--input-size", type=int, default=DEFAULT_INPUT_SIZE, choices=INPUT_SIZES, metavar="PIXELS"
    )
    parser.add_argument("--precision", default="float32", choices=PRECISIONS)
    parser.add_argument("--no-pack", action="store_true", help="the nodes read the images from their bucket")
    args = parser.parse_args(argv)

    def run() -> Any:
        deployment = settings.load()
        work = Work(
            args.images,
            args.image_bytes,
            args.backbone,
            args.alpha,
            args.input_size,
            args.precision,
            not args.no_pack,
        )
        if work.alpha <= 0:
            raise JobError(f"--alpha must be above 0, not {work.alpha:g}")
        found = estimate(
            work,
            args.shape,
            load_shape(deployment.home, args.shape),
            prices.load(deployment.home, args.region or deployment.region),
        )
        return asdict(found) if args.json else found

    return commands_cli.run(run, args, show=lambda found: print(table(found)))
