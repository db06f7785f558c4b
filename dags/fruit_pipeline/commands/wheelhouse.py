"""Collect the wheels that cluster nodes install, and upload them to the bucket.

    python -m fruit_pipeline wheelhouse --output s3://bucket/wheelhouse

Nodes install from the bucket, so they need no internet. The target `emr` is CPython 3.11 on Amazon
Linux 2023 (glibc 2.34), x86-64 and arm64; `host` is this machine.
"""

from __future__ import annotations

import argparse
from typing import Any

from fruit_pipeline import settings
from fruit_pipeline.cluster.wheelhouse import REQUIREMENTS, build, publish
from fruit_pipeline.commands.options import add_options
from image_features.arguments import Parser
from image_features.storage import Storage


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--output", help="the wheels go to <output>/<digest>")
    parser.add_argument("--target", choices=settings.NODE_TARGETS, help="default: FRUITS_NODE_TARGET")


def run(args: argparse.Namespace) -> dict[str, Any]:
    deployment = settings.load()
    target = Storage(args.output, create=True)
    wheelhouse = build(
        deployment.home / "bootstrap" / REQUIREMENTS,
        args.target or deployment.node_target,
        deployment.cache_dir,
    )
    return {"uri": publish(wheelhouse, target), "bytes": wheelhouse.bytes}
