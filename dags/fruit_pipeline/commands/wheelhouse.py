"""The wheels that cluster nodes install, kept in the bucket so that nodes need no internet.

    python -m fruit_pipeline wheelhouse --output s3://bucket/wheelhouse

For `emr` nodes: CPython 3.11 on Amazon Linux 2023 (glibc 2.34), x86-64 and arm64. For this `host`:
whatever runs this command.
"""

from __future__ import annotations

from fruit_pipeline.cluster.wheelhouse import REQUIREMENTS, build, publish
from image_features.storage import Storage


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--output", required=True, metavar="URI", help="the wheels go to <output>/<digest>")
    parser.add_argument("--target", choices=settings.NODE_TARGETS, help="default: FRUITS_NODE_TARGET")
    args = parser.parse_args(argv)

    def run() -> dict[str, object]:
        deployment, target = settings.load(), Storage(args.output, create=True)
        wheelhouse = build(
            deployment.home / "bootstrap" / REQUIREMENTS,
            args.target or deployment.node_target,
            deployment.cache_dir,
        )
        return {"uri": publish(wheelhouse, target), "bytes": wheelhouse.bytes}

    return commands_cli.run(run, args)
