"""The job code of a run: uploaded with it, so a run can be repeated with the code that made it.

    python -m fruit_pipeline job-code --output s3://bucket/runs/r1/code

The result is the names of the objects that were written.
"""

from __future__ import annotations

from fruit_pipeline.cluster.job_code import upload
from image_features.storage import Storage


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--output", required=True, metavar="URI", help="prefix that the code goes to")
    args = parser.parse_args(argv)

    def run() -> list[str]:
        return upload(settings.load().home, Storage(args.output, create=True))

    return commands_cli.run(run, args, show=lambda keys: print("uploaded", *keys))
