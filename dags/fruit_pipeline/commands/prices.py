"""Print the prices of AWS in a region, or fetch them anew.

    python -m fruit_pipeline prices --region eu-west-3
    python -m fruit_pipeline prices --region eu-west-3 --refresh
    python -m fruit_pipeline prices --region eu-north-1 --refresh --types m5.xlarge,m6g.xlarge

Prints `emr_configs/prices/<region>.json`. With --refresh the whole file is written anew, from the AWS
Price List and EC2's Spot price history: for the instance types that it has, those of all cluster
shapes, and --types. That needs pricing:GetProducts and ec2:DescribeSpotPriceHistory.

All prices are in USD without tax, for Linux on shared tenancy. Each names its source.
"""

from __future__ import annotations

import argparse

from fruit_pipeline import settings
from fruit_pipeline.aws.session import Aws
from fruit_pipeline.commands.options import add_options
from fruit_pipeline.cost.price_list import refresh
from fruit_pipeline.cost.prices import Prices, load, table
from image_features.arguments import Parser
from image_features.errors import JobError


def add_arguments(parser: Parser) -> None:
    add_options(parser, "--region")
    parser.add_argument("--refresh", action="store_true", help="fetch from AWS and write the file")
    parser.add_argument(
        "--types", default="", metavar="TYPE,...", help="with --refresh: further instance types"
    )


def run(args: argparse.Namespace) -> Prices:
    deployment = settings.load()
    region = args.region or deployment.region
    if args.refresh:
        types = [name.strip() for name in args.types.split(",") if name.strip()]
        return refresh(deployment.home, region, Aws.from_environment(region), types)
    if args.types:
        raise JobError("--types goes with --refresh")
    return load(deployment.home, region)


def show(result: Prices) -> None:
    print(table(result))
