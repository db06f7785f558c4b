"""A cluster shape made out of a cluster that exists, as one clones a cluster in the console.

    python -m fruit_pipeline clone-shape --cluster j-2AXXXXXXGAPLF --name mine

prints the shape and says on stderr what it leaves out; with --write it becomes `emr_configs/mine.json`.
The cluster may have ended: EMR describes it for two months more.
"""

from __future__ import annotations

import json
from typing import Any

from fruit_pipeline.cluster import shapes
from fruit_pipeline.cluster.clone_shape import clone, log


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--cluster", required=True, metavar="ID", help="j-..., running or ended")
    parser.add_argument("--name", required=True, help="of the shape")
    parser.add_argument("--write", action="store_true", help="write it into emr_configs")
    args = parser.parse_args(argv)
    args.json = True  # the shape is a file in any case

    def run() -> dict[str, Any]:
        from fruit_pipeline.aws.errors import explained
        from fruit_pipeline.aws.session import Aws

        deployment = settings.load()
        aws = Aws.from_environment(deployment.region)
        with explained(f"cluster {args.cluster} in {deployment.region}", aws):
            made = clone(aws.client("emr"), args.cluster, deployment.home, args.name)
        for line in made.left_out:
            log.info("not as it was: %s", line)
        if args.write:
            path = shapes.shape_file(deployment.home, args.name)
            path.write_text(json.dumps(made.values, indent=2, ensure_ascii=False) + "\n")
            log.info("written: %s", path)
        return made.values

    return commands_cli.run(run, args)
