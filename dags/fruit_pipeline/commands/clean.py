"""Delete a run's temporary data (sample, code, logs), or with --everything all of it.

    python -m fruit_pipeline clean --run r1 --dry-run
    python -m fruit_pipeline clean --run s3://bucket/runs/r1 --yes
    python -m fruit_pipeline clean --run s3://bucket/runs/r1 --everything --yes

Lists what would be deleted, with its bytes, and deletes it with --yes. A key alone is a run in
FRUITS_BUCKET. Features, rejects, embeddings and summary.json are deleted with --everything only. A
run that is still active is refused: one with a running cluster, or one that wrote an object in the
last hour and has no summary of it. In a bucket with versioning, deleted objects still cost until the
bucket's lifecycle rules remove the old versions.
"""

from __future__ import annotations

import argparse
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.commands.options import add_options
from fruit_pipeline.housekeeping.clean import delete, locate, plan
from fruit_pipeline.housekeeping.stored_runs import RUNS
from fruit_pipeline.notify.texts import Words
from image_features.arguments import Parser
from image_features.errors import JobError
from image_features.storage import join_uri


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--run", metavar="KEY", help="key or s3:// URI of a run")
    parser.add_argument("--everything", action="store_true", help="delete its results as well")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only list what would be deleted")
    mode.add_argument("--yes", action="store_true", help="delete it")


def run(args: argparse.Namespace) -> dict[str, Any]:
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
                f"{cleaning.objects:,} objects of {words.size(cleaning.bytes)} would be deleted; "
                "give --yes to delete them, or --dry-run to only list them"
            )
        if args.yes:
            delete(s3, bucket, cleaning.keys)
    return {**cleaning.figures(), "deleted": args.yes}
