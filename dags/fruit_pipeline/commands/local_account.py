"""Set up a local AWS as a careful account, so that the preflight checks pass as they do on AWS.

    AWS_ENDPOINT_URL=http://127.0.0.1:5000 python -m fruit_pipeline local-account --bucket fruits

A bucket that is encrypted, closed to the public and versioned, and the roles that EMR and its nodes
take. What is there already stays. Without an endpoint in the environment it is refused: a real account
is made by infra/template.yaml.
"""

from __future__ import annotations

from fruit_pipeline.commands import cli as commands_cli
from fruit_pipeline.demo.local_account import from_environment
from image_features import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser(__doc__)
    parser.add_argument("--bucket", help="its name (default: FRUITS_BUCKET)")
    args = parser.parse_args(argv)
    return commands_cli.run(lambda: from_environment(args.bucket), args)
