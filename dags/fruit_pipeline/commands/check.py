"""Check a finished run's parquet against its manifest: nothing lost, nothing twice, nothing odd.

    python -m fruit_pipeline check --run s3://bucket/runs/r1

A check that does not hold is bad input: the one line names the first ten rows or objects.
"""

from __future__ import annotations

from fruit_pipeline.checks.output import check_run
from image_features.contract import RunLayout


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument(
        "--run", required=True, metavar="URI", help="s3://<bucket>/runs/<run key>, or a folder"
    )
    args = parser.parse_args(argv)
    return commands_cli.run(lambda: check_run(RunLayout(args.run.rstrip("/"))), args)
