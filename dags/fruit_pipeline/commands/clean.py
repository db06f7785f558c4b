"""Deletes the temporary data of a run (sample, code, logs), or with --everything all of it.

    python -m fruit_pipeline clean --run r1 --dry-run
    python -m fruit_pipeline clean --run s3://bucket/runs/r1 --yes

shows what goes, with its bytes, and deletes it with --yes. A key alone means a run in
FRUITS_BUCKET. Features, rejects, embeddings and summary.json stay, unless --everything is given.
A run that is alive is refused: one with a living cluster, or one that has written something in
the last hour and not summed it up. In a bucket with versioning, what is deleted still costs until
the bucket's lifecycle rules take the old versions.
"""

from __future__ import annotations

from typing import Any

from fruit_pipeline.housekeeping.clean import delete, locate, plan
from fruit_pipeline.housekeeping.stored_runs import RUNS
from image_features.errors import JobError
from image_features.storage import join_uri


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.aws.errors import explained
    from fruit_pipeline.aws.session import Aws
    from fruit_pipeline.commands import cli as commands_cli
    from fruit_pipeline.notify.texts import Words
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, metavar="KEY", help="key or s3:// URI of a run")
    parser.add_argument("--everything", action="store_true", help="its results as well")
    sure = parser.add_mutually_exclusive_group()
    sure.add_argument("--dry-run", action="store_true", help="only show what would go")
    sure.add_argument("--yes", action="store_true", help="delete it")
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        deployment = settings.load()
        bucket, key = locate(args.run, deployment.bucket)
        aws = Aws.from_environment(deployment.region)
        s3, words = aws.client("s3"), Words("en")
        with explained(f"run {join_uri(f's3://{bucket}', RUNS, key)}", aws):
            cleaning = plan(s3, aws.client("emr"), bucket, key, everything=args.everything)
            for name, folder in cleaning.folders.items():
                place = f"{name}/" if name else "(top)"
                print(f"{place:12} {folder.objects:8,} objects  {words.size(folder.bytes):>10}")
            if not (args.yes or args.dry_run):
                raise JobError(
                    f"{cleaning.objects:,} objects of {words.size(cleaning.bytes)} would go; "
                    "give --yes to delete them, or --dry-run to look only"
                )
            if args.yes:
                delete(s3, bucket, cleaning.keys)
        return {**cleaning.figures(), "deleted": args.yes}

    return commands_cli.run(run, args)
