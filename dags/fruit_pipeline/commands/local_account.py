"""Set up a local AWS as a careful account: the bucket and the roles that `preflight` checks.

    AWS_ENDPOINT_URL=http://127.0.0.1:5000 python -m fruit_pipeline local-account --bucket fruits

The bucket is encrypted, closed to the public and versioned; the roles are those of EMR and its nodes.
What exists is not changed otherwise. Without an endpoint in the environment it is refused: a real
account is set up by infra/template.yaml.
"""

from __future__ import annotations

import argparse

from fruit_pipeline.demo.local_account import set_up_from_environment
from image_features.arguments import Parser


def add_arguments(parser: Parser) -> None:
    parser.add_argument("--bucket", metavar="NAME", help="default: FRUITS_BUCKET")


def run(args: argparse.Namespace) -> dict[str, str]:
    return set_up_from_environment(args.bucket)
