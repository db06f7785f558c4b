"""The EMR cluster of a run: its request from a shape, and finding it again by its tag.

    python -m fruit_pipeline cluster --run s3://bucket/runs/r1 --wheelhouse s3://bucket/wheelhouse/<digest>

prints the request as JSON for `aws emr run-job-flow --cli-input-json`.
"""

from __future__ import annotations

from typing import Any

from fruit_pipeline.cluster.job_flow import build_request
from fruit_pipeline.cluster.shapes import load_shape
from image_features.storage import join_uri


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, metavar="URI", help="s3://<bucket>/runs/<run key>")
    parser.add_argument("--wheelhouse", required=True, metavar="URI", help="from fruit_pipeline.wheelhouse")
    parser.add_argument("--shape", default="small", help="default: %(default)s")
    args = parser.parse_args(argv)

    def run() -> dict[str, Any]:
        deployment = settings.load()
        return build_request(
            deployment,
            load_shape(deployment.home, args.shape),
            args.run.rstrip("/").rpartition("/")[2],
            join_uri(args.run, "logs"),
            join_uri(args.run, "code", "install.sh"),
            args.wheelhouse,
        )

    args.json = True  # the request is for a machine in any case
    return commands_cli.run(run, args)
