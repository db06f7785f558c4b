"""What a deployment decides, once, by environment variables; a run's Params cannot widen it.

| variable | meaning | default |
|---|---|---|
| `FRUITS_BUCKET` | bucket of runs, models and wheels | none: a run must name one |
| `FRUITS_REGION` | where cluster and bucket are | `eu-west-3` |
| `FRUITS_ALLOWED_REGIONS` | where data may live, comma-separated | the regions inside the EU |
| `FRUITS_AWS_CONN_ID` | Airflow connection | `aws_default` |
| `FRUITS_SOURCE_AWS_CONN_ID` | connection for `s3://` sources, in another account say | the same |
| `FRUITS_SOURCE` | source that the trigger form offers: a folder or `s3://` prefix | none |
| `FRUITS_WEIGHTS` | weights that the trigger form offers | `imagenet` |
| `FRUITS_SCHEDULE` | cron expression or preset such as `@weekly`, in `FRUITS_TIME_ZONE` | none: no schedule |
| `FRUITS_SCHEDULE_PARAMS` | JSON file with the Params of scheduled runs | none: the form's defaults |
| `FRUITS_MAX_ACTIVE_RUNS` | runs of `fruit_features` at a time, 1 to 50; others wait | `1` |
| `FRUITS_CACHE_DIR` | exported models, downloaded wheels | `~/.cache/fruit-features` |
| `FRUITS_HOME` | folder of `spark_jobs`, `bootstrap`, `emr_configs` | the one above `dags` |
| `FRUITS_NODE_TARGET` | wheels for `emr` nodes or for this `host` | `emr` |
| `FRUITS_POLL_SECONDS` | between two looks at a cluster or step, 1 to 600 | `20` |
| `FRUITS_SUBNET_ID` | subnet of the clusters; of several, comma-separated, fleets choose | the default one |
| `FRUITS_PRIVATE_SUBNET` | `true`: the nodes have no internet; S3 needs a gateway endpoint | `false` |
| `FRUITS_SECURITY_CONFIGURATION` | name of an EMR security configuration, for IMDSv2 and encryption | none |
| `FRUITS_OWNER` | who answers for the clusters: their tag `owner` | none: no such tag |
| `FRUITS_EMR_SERVICE_ROLE` | role that EMR takes | `EMR_DefaultRole_V2` |
| `FRUITS_EC2_INSTANCE_PROFILE` | role that the nodes take | `EMR_EC2_DefaultRole` |
| `FRUITS_SNS_TOPIC_ARN` | topic that messages go to, in an allowed region | none: no messages |
| `FRUITS_LANGUAGE` | of messages and of the cost report: `en` or `fr` | `en` |
| `FRUITS_TIME_ZONE` | of the hours that people give and read, such as `Europe/Paris` | `UTC` |
| `FRUITS_RETENTION_DAYS` | after which a run's temporary data goes, 1 to 3650 | `30` |
| `FRUITS_BROWSER_ENDPOINT_URL` | where browsers reach S3, of a local AWS say | none: the AWS console |
| `FRUITS_REAP` | `true`: clusters that nobody waits for are terminated; `false`: only reported | `false` |
| `FRUITS_REAP_HOURS` | age of a run's cluster that no run is meant to reach, 1 to 168 | `24` |
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from image_features.errors import JobError

# https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
# London (eu-west-2) and Zurich (eu-central-2) carry the prefix but lie outside the EU.
EU_REGIONS = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3")

NODE_TARGETS = ("emr", "host")
LANGUAGES = ("en", "fr")

_ENDPOINT = re.compile(r"https?://[^\s/?#]+")
_SUBNET = re.compile(r"subnet-[0-9a-z]+")
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-tags-restrictions.html
_TAG_VALUE = re.compile(r"(?i)(?!aws:)[\w .:/=+\-@]{0,256}")
# FIFO topics want a group id with each message and reach no mailbox, so they are not taken.
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:(?P<region>[a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}")


@dataclass(frozen=True)
class Settings:
    """The deployment's settings; see the module for each."""

    bucket: str | None
    region: str
    allowed_regions: tuple[str, ...]
    aws_conn_id: str
    source_aws_conn_id: str
    source: str
    weights: str
    schedule: str | None
    schedule_params: Path | None
    max_active_runs: int
    cache_dir: Path
    home: Path
    node_target: str
    poll_seconds: int
    subnet_ids: tuple[str, ...]
    private_subnet: bool
    security_configuration: str | None
    owner: str | None
    service_role: str
    instance_profile: str
    sns_topic_arn: str | None
    language: str
    time_zone: ZoneInfo
    retention_days: int
    browser_endpoint_url: str | None
    reap: bool
    reap_hours: int


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment. Raises JobError that names the variable at fault."""
    env = os.environ if environ is None else environ

    def text(name: str, default: str) -> str:
        return env.get(name, "").strip() or default

    def one_of(name: str, expected: tuple[str, ...]) -> str:
        value = text(name, expected[0])
        if value not in expected:
            raise JobError(f"{name} is {value!r}; expected one of {', '.join(expected)}")
        return value

    def whole(name: str, default: int, unit: str, low: int, high: int) -> int:
        value = text(name, str(default))
        if not value.isdecimal() or not low <= int(value) <= high:
            raise JobError(f"{name} is {value!r}; expected a whole number of {unit}, {low} to {high}")
        return int(value)

    conn_id = text("FRUITS_AWS_CONN_ID", "aws_default")
    allowed = [region.strip() for region in text("FRUITS_ALLOWED_REGIONS", ",".join(EU_REGIONS)).split(",")]
    allowed = [region for region in allowed if region]
    return Settings(
        bucket=text("FRUITS_BUCKET", "") or None,
        region=text("FRUITS_REGION", "eu-west-3"),
        allowed_regions=tuple(allowed),
        aws_conn_id=conn_id,
        source_aws_conn_id=text("FRUITS_SOURCE_AWS_CONN_ID", conn_id),
        source=text("FRUITS_SOURCE", ""),
        weights=text("FRUITS_WEIGHTS", "imagenet"),
        schedule=text("FRUITS_SCHEDULE", "") or None,
        schedule_params=_file(text("FRUITS_SCHEDULE_PARAMS", "")),
        max_active_runs=whole("FRUITS_MAX_ACTIVE_RUNS", 1, "runs", 1, 50),
        cache_dir=Path(text("FRUITS_CACHE_DIR", "~/.cache/fruit-features")).expanduser(),
        home=Path(text("FRUITS_HOME", str(Path(__file__).resolve().parents[2]))),
        node_target=one_of("FRUITS_NODE_TARGET", NODE_TARGETS),
        poll_seconds=whole("FRUITS_POLL_SECONDS", 20, "seconds", 1, 600),
        subnet_ids=_subnets(text("FRUITS_SUBNET_ID", "")),
        private_subnet=one_of("FRUITS_PRIVATE_SUBNET", ("false", "true")) == "true",
        security_configuration=text("FRUITS_SECURITY_CONFIGURATION", "") or None,
        owner=_owner(text("FRUITS_OWNER", "")),
        service_role=text("FRUITS_EMR_SERVICE_ROLE", "EMR_DefaultRole_V2"),
        instance_profile=text("FRUITS_EC2_INSTANCE_PROFILE", "EMR_EC2_DefaultRole"),
        sns_topic_arn=_topic(text("FRUITS_SNS_TOPIC_ARN", ""), allowed),
        language=one_of("FRUITS_LANGUAGE", LANGUAGES),
        time_zone=_time_zone(text("FRUITS_TIME_ZONE", "UTC")),
        retention_days=whole("FRUITS_RETENTION_DAYS", 30, "days", 1, 3650),
        browser_endpoint_url=_endpoint(text("FRUITS_BROWSER_ENDPOINT_URL", "")),
        reap=one_of("FRUITS_REAP", ("false", "true")) == "true",
        reap_hours=whole("FRUITS_REAP_HOURS", 24, "hours", 1, 168),
    )


def _file(text: str) -> Path | None:
    return Path(text).expanduser() if text else None


def _subnets(text: str) -> tuple[str, ...]:
    subnets = tuple(subnet.strip() for subnet in text.split(",") if subnet.strip())
    for subnet in subnets:
        if not _SUBNET.fullmatch(subnet):
            raise JobError(
                f"FRUITS_SUBNET_ID is {text!r}; expected ids such as subnet-0123456789abcdef, comma-separated"
            )
    return subnets


def _owner(text: str) -> str | None:
    if not _TAG_VALUE.fullmatch(text):
        raise JobError(
            f"FRUITS_OWNER is {text!r}; expected what a tag may hold: letters, digits, spaces and _.:/=+-@, "
            "256 at most"
        )
    return text or None


def _topic(arn: str, allowed: list[str]) -> str | None:
    if not arn:
        return None
    match = _TOPIC.fullmatch(arn)
    if not match:
        raise JobError(
            f"FRUITS_SNS_TOPIC_ARN is {arn!r}; expected arn:aws:sns:<region>:<account>:<name> "
            "of a standard topic"
        )
    if match["region"] not in allowed:
        raise JobError(
            f"FRUITS_SNS_TOPIC_ARN is {arn!r}; expected a topic in one of {', '.join(allowed)}, "
            "for messages name data"
        )
    return arn


def _endpoint(url: str) -> str | None:
    url = url.rstrip("/")
    if url and not _ENDPOINT.fullmatch(url):
        raise JobError(f"FRUITS_BROWSER_ENDPOINT_URL is {url!r}; expected such as http://localhost:5000")
    return url or None


def _time_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown, no name, a folder of the zone files
        raise JobError(f"FRUITS_TIME_ZONE is {name!r}; expected a name such as Europe/Paris") from None
