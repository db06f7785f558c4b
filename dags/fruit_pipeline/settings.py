"""What a deployment decides, once, by environment variables; a run's Params cannot widen it.

| variable | meaning | default |
|---|---|---|
| `FRUITS_BUCKET` | bucket of runs, models and wheels | none: a run must name one |
| `FRUITS_REGION` | where cluster and bucket are | `eu-west-3` |
| `FRUITS_ALLOWED_REGIONS` | where data may live, comma-separated | the regions inside the EU |
| `FRUITS_AWS_CONN_ID` | Airflow connection | `aws_default` |
| `FRUITS_SOURCE_AWS_CONN_ID` | connection for `s3://` sources, in another account say | the same |
| `FRUITS_CACHE_DIR` | exported models, downloaded wheels | `~/.cache/fruit-features` |
| `FRUITS_HOME` | folder of `spark_jobs`, `bootstrap`, `emr_configs` | the one above `dags` |
| `FRUITS_NODE_TARGET` | wheels for `emr` nodes or for this `host` | `emr` |
| `FRUITS_POLL_SECONDS` | between two looks at a cluster or step, 1 to 600 | `20` |
| `FRUITS_SUBNET_ID` | subnet of the clusters | the account's default |
| `FRUITS_EMR_SERVICE_ROLE` | role that EMR takes | `EMR_DefaultRole_V2` |
| `FRUITS_EC2_INSTANCE_PROFILE` | role that the nodes take | `EMR_EC2_DefaultRole` |
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from image_features.errors import JobError

# https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
# London (eu-west-2) and Zurich (eu-central-2) carry the prefix but lie outside the EU.
EU_REGIONS = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3")

NODE_TARGETS = ("emr", "host")


@dataclass(frozen=True)
class Settings:
    """The deployment's settings; see the module for each."""

    bucket: str | None
    region: str
    allowed_regions: tuple[str, ...]
    aws_conn_id: str
    source_aws_conn_id: str
    cache_dir: Path
    home: Path
    node_target: str
    poll_seconds: int
    subnet_id: str | None
    service_role: str
    instance_profile: str


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment. Raises JobError that names the variable at fault."""
    env = os.environ if environ is None else environ

    def text(name: str, default: str) -> str:
        return env.get(name, "").strip() or default

    node_target = text("FRUITS_NODE_TARGET", "emr")
    if node_target not in NODE_TARGETS:
        raise JobError(f"FRUITS_NODE_TARGET is {node_target!r}; expected one of {', '.join(NODE_TARGETS)}")
    poll = text("FRUITS_POLL_SECONDS", "20")
    if not poll.isdecimal() or not 1 <= int(poll) <= 600:
        raise JobError(f"FRUITS_POLL_SECONDS is {poll!r}; expected a whole number of seconds, 1 to 600")
    conn_id = text("FRUITS_AWS_CONN_ID", "aws_default")
    allowed = [region.strip() for region in text("FRUITS_ALLOWED_REGIONS", ",".join(EU_REGIONS)).split(",")]
    return Settings(
        bucket=text("FRUITS_BUCKET", "") or None,
        region=text("FRUITS_REGION", "eu-west-3"),
        allowed_regions=tuple(region for region in allowed if region),
        aws_conn_id=conn_id,
        source_aws_conn_id=text("FRUITS_SOURCE_AWS_CONN_ID", conn_id),
        cache_dir=Path(text("FRUITS_CACHE_DIR", "~/.cache/fruit-features")).expanduser(),
        home=Path(text("FRUITS_HOME", str(Path(__file__).resolve().parents[2]))),
        node_target=node_target,
        poll_seconds=int(poll),
        subnet_id=text("FRUITS_SUBNET_ID", "") or None,
        service_role=text("FRUITS_EMR_SERVICE_ROLE", "EMR_DefaultRole_V2"),
        instance_profile=text("FRUITS_EC2_INSTANCE_PROFILE", "EMR_EC2_DefaultRole"),
    )
