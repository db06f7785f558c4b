"""The two EMR steps of a run.

    python -m fruit_pipeline steps --run s3://bucket/runs/r1 --model s3://bucket/models/<digest> \
        --components 50

prints them as JSON for `aws emr add-steps`, or as `spark-submit` commands with --commands.
"""

from __future__ import annotations

import shlex
from typing import Any

from fruit_pipeline.cluster.steps import extraction_step, reduction_step
from image_features.cli import at_least_one, share
from image_features.contract import RunLayout


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, metavar="URI", help="s3://<bucket>/runs/<run key>")
    parser.add_argument("--model", required=True, metavar="URI", help="from fruit_pipeline.backbone")
    kept = parser.add_mutually_exclusive_group(required=True)
    kept.add_argument("--components", type=at_least_one, metavar="N")
    kept.add_argument("--variance", type=share, metavar="SHARE")
    parser.add_argument("--commands", action="store_true", help="print spark-submit commands")
    args = parser.parse_args(argv)

    def run() -> Any:
        layout = RunLayout(args.run.rstrip("/"))
        steps = [
            extraction_step(layout, args.model),
            reduction_step(layout, args.model, args.components, args.variance),
        ]
        return [shlex.join(step["HadoopJarStep"]["Args"]) for step in steps] if args.commands else steps

    args.json = args.json or not args.commands  # the steps are for a machine in any case
    return commands_cli.run(run, args, show=lambda commands: print("\n".join(commands)))
