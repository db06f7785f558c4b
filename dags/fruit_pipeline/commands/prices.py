"""What AWS asks for instances, volumes and requests in a region: one dated file, and its renewal.

    python -m fruit_pipeline prices --region eu-west-3
    python -m fruit_pipeline prices --region eu-west-3 --refresh
    python -m fruit_pipeline prices --region eu-north-1 --refresh --types m5.xlarge,m6g.xlarge

prints `emr_configs/prices/<region>.json`. With --refresh the file is written anew, as a whole, from
the AWS Price List and EC2's Spot price history, for the types that it has, those of all cluster
shapes, and --types. The credentials need pricing:GetProducts and ec2:DescribeSpotPriceHistory.

All prices are in USD without tax, for Linux on shared tenancy. Each names its source.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fruit_pipeline.aws.session import Aws
from fruit_pipeline.cost.price_list import refresh
from fruit_pipeline.cost.prices import _without_none, load, table
from image_features.errors import JobError


def main(argv: list[str] | None = None) -> int:
    from fruit_pipeline import settings
    from fruit_pipeline.commands import cli as commands_cli
    from image_features import cli

    parser = cli.parser(__doc__)
    parser.add_argument("--region", help="default: FRUITS_REGION")
    parser.add_argument("--refresh", action="store_true", help="ask AWS, and write the file anew")
    parser.add_argument(
        "--types", default="", metavar="TYPE,...", help="with --refresh: further instance types"
    )
    args = parser.parse_args(argv)

    def run() -> Any:
        deployment = settings.load()
        region = args.region or deployment.region
        if args.refresh:
            more = [name.strip() for name in args.types.split(",") if name.strip()]
            found = refresh(deployment.home, region, Aws.from_environment(region), more)
        elif args.types:
            raise JobError("--types goes with --refresh")
        else:
            found = load(deployment.home, region)
        return asdict(found, dict_factory=_without_none) if args.json else found

    return commands_cli.run(run, args, show=lambda found: print(table(found)))
