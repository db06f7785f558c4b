"""Make the report of a finished run: one HTML file that works offline.

    python -m fruit_pipeline report --run s3://bucket/runs/r1
    python -m fruit_pipeline report --run demo-output/demo-20261121-101500 --output /tmp/report.html

Without --output it goes into the run, as report.html. Needs the run's features and PCA; images are
shown as far as its sample, or for one that is not packed its source, still has them.
"""

from __future__ import annotations

from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline.commands import cli as commands_cli
    from fruit_pipeline.report.build import Report, make
    from image_features import cli
    from image_features.contract import RunLayout
    from image_features.errors import JobError

    parser = cli.parser(__doc__)
    parser.add_argument(
        "--run", required=True, metavar="URI", help="s3://<bucket>/runs/<run key>, or a folder"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="in place of report.html in the run")
    args = parser.parse_args(argv)

    def save(body: bytes) -> str:
        try:
            args.output.write_bytes(body)
        except OSError as error:
            raise JobError(f"cannot write {args.output}: {error.strerror}") from error
        return str(args.output)

    def work() -> Report:
        return make(RunLayout(args.run.rstrip("/")), save=save if args.output else None)

    return commands_cli.run(work, args)
