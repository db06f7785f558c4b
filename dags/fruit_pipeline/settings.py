"""The deployment's settings, read from environment variables. A run's Params cannot widen them.

Each field of ``Settings`` declares its variable, meaning and default; docs/settings.md lists them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from image_features.errors import JobError

# https://docs.aws.amazon.com/global-infrastructure/latest/regions/aws-regions.html
# London (eu-west-2) and Zurich (eu-central-2) carry the prefix but lie outside the EU.
EU_REGIONS = ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3")

NODE_TARGETS = ("emr", "host")
LANGUAGES = ("en", "fr")

_METADATA_KEY = "variable"
_ENDPOINT = re.compile(r"https?://[^\s/?#]+")
_SUBNET = re.compile(r"subnet-[0-9a-z]+")
# https://docs.aws.amazon.com/emr/latest/ManagementGuide/emr-plan-tags-restrictions.html
_TAG_VALUE = re.compile(r"(?i)(?!aws:)[\w .:/=+\-@]{0,256}")
# FIFO topics want a group id with each message and reach no mailbox, so they are refused.
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:(?P<region>[a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}")


# Parsers of a variable's text. They raise ValueError that says what is expected.


def _one_of(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"one of {', '.join(names)}")
        return text

    return parse


def _matching(pattern: re.Pattern[str], expected: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(expected)
        return text

    return parse


def _integer(unit: str, low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a whole number of {unit}, {low} to {high}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    return _one_of("false", "true")(text) == "true"


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _subnets(text: str) -> tuple[str, ...]:
    subnets = _names(text)
    if not all(map(_SUBNET.fullmatch, subnets)):
        raise ValueError("ids such as subnet-0123456789abcdef, comma-separated")
    return subnets


def _endpoint(text: str) -> str:
    return _matching(_ENDPOINT, "such as http://localhost:5000")(text.rstrip("/"))


def _time_zone(text: str) -> ZoneInfo:
    try:
        return ZoneInfo(text)
    except (KeyError, ValueError, OSError):  # unknown, no name, a folder of the zone files
        raise ValueError("a name such as Europe/Paris") from None


@dataclass(frozen=True)
class Variable:
    """An environment variable; ``meaning`` and ``shown_default`` are Markdown for docs/settings.md."""

    name: str
    meaning: str
    parse: Callable[[str], Any]
    default: str  # text to take for an empty variable; if it is empty too, the value is ``unset``
    unset: Any
    shown_default: str

    def read(self, environ: Mapping[str, str]) -> Any:
        """The parsed value. Raises JobError that names variable and value."""
        text = environ.get(self.name, "").strip() or self.default
        if not text:
            return self.unset
        try:
            return self.parse(text)
        except ValueError as error:
            raise JobError(f"{self.name} is {text!r}; expected {error}") from None


def variable(
    name: str,
    meaning: str,
    parse: Callable[[str], Any] = str,
    *,
    default: str = "",
    unset: Any = None,
    shown_default: str = "none",
) -> Any:
    """A field of Settings that is read from an environment variable. The dataclass itself gets no default."""
    shown = shown_default if shown_default != "none" or not default else f"`{default}`"
    return field(metadata={_METADATA_KEY: Variable(name, meaning, parse, default, unset, shown)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a deployment decides, for all of its runs."""

    bucket: str | None = variable(
        "FRUITS_BUCKET",
        "bucket of runs, models and wheels; the name alone",
        shown_default="none: a run must name one",
    )
    region: str = variable("FRUITS_REGION", "where cluster and bucket are", default="eu-west-3")
    allowed_regions: tuple[str, ...] = variable(
        "FRUITS_ALLOWED_REGIONS",
        "where data may be, comma-separated; the only way to leave the EU",
        _names,
        default=",".join(EU_REGIONS),
        shown_default="the regions inside the EU",
    )
    aws_conn_id: str = variable(
        "FRUITS_AWS_CONN_ID",
        "Airflow connection; one that does not exist means boto3's own chain of credentials",
        default="aws_default",
    )
    source_aws_conn_id: str = variable(
        "FRUITS_SOURCE_AWS_CONN_ID",
        "connection for `s3://` sources, for example in another account",
        shown_default="the same",
    )
    source_requester_pays: bool = variable(
        "FRUITS_SOURCE_REQUESTER_PAYS",
        "`true`: pay for the requests to `s3://` sources, as requester-pays buckets demand",
        _boolean,
        default="false",
    )
    source: str = variable(
        "FRUITS_SOURCE", "source that the trigger form offers: a folder or `s3://` prefix", unset=""
    )
    weights: str = variable("FRUITS_WEIGHTS", "weights that the trigger form offers", default="imagenet")
    schedule: str | None = variable(
        "FRUITS_SCHEDULE",
        "when scheduled runs start: a cron expression or a preset such as `@weekly`, in `FRUITS_TIME_ZONE`",
        shown_default="none: no schedule",
    )
    schedule_params: Path | None = variable(
        "FRUITS_SCHEDULE_PARAMS",
        "JSON file with the Params of scheduled runs",
        _path,
        shown_default="none: the form's defaults",
    )
    max_active_runs: int = variable(
        "FRUITS_MAX_ACTIVE_RUNS",
        "runs of `fruit_features` at a time, 1 to 50; others wait",
        _integer("runs", 1, 50),
        default="1",
    )
    cache_dir: Path = variable(
        "FRUITS_CACHE_DIR",
        "exported models and downloaded wheels; keep it between runs",
        _path,
        default="~/.cache/fruit-features",
    )
    home: Path = variable(
        "FRUITS_HOME",
        "folder of `spark_jobs`, `bootstrap` and `emr_configs`",
        Path,
        unset=Path(__file__).resolve().parents[2],
        shown_default="the one above `dags`",
    )
    node_target: str = variable(
        "FRUITS_NODE_TARGET",
        "wheels for `emr` nodes, or for this `host` as a local AWS needs them",
        _one_of(*NODE_TARGETS),
        default="emr",
    )
    poll_seconds: int = variable(
        "FRUITS_POLL_SECONDS",
        "between two polls of a cluster or step, 1 to 600",
        _integer("seconds", 1, 600),
        default="20",
    )
    subnet_ids: tuple[str, ...] = variable(
        "FRUITS_SUBNET_ID",
        "subnet of the clusters; of several, comma-separated, instance fleets choose, groups take the first",
        _subnets,
        unset=(),
        shown_default="the default one",
    )
    private_subnet: bool = variable(
        "FRUITS_PRIVATE_SUBNET",
        "`true`: the nodes have no internet; S3 needs a gateway endpoint",
        _boolean,
        default="false",
    )
    security_configuration: str | None = variable(
        "FRUITS_SECURITY_CONFIGURATION", "name of an EMR security configuration, for IMDSv2 and encryption"
    )
    owner: str | None = variable(
        "FRUITS_OWNER",
        "who is responsible for the clusters: their tag `owner`",
        _matching(_TAG_VALUE, "what a tag may hold: letters, digits, spaces and _.:/=+-@, 256 at most"),
        shown_default="none: no such tag",
    )
    service_role: str = variable(
        "FRUITS_EMR_SERVICE_ROLE", "role that EMR takes; a name or an ARN", default="EMR_DefaultRole_V2"
    )
    instance_profile: str = variable(
        "FRUITS_EC2_INSTANCE_PROFILE", "role that the nodes take", default="EMR_EC2_DefaultRole"
    )
    sns_topic_arn: str | None = variable(
        "FRUITS_SNS_TOPIC_ARN",
        "standard topic that messages go to, in an allowed region",
        _matching(_TOPIC, "arn:aws:sns:<region>:<account>:<name> of a standard topic"),
        shown_default="none: no messages",
    )
    language: str = variable(
        "FRUITS_LANGUAGE",
        "of messages and of the cost report: `en` or `fr`",
        _one_of(*LANGUAGES),
        default="en",
    )
    time_zone: ZoneInfo = variable(
        "FRUITS_TIME_ZONE",
        "of the hours that people write and read, such as `Europe/Paris`",
        _time_zone,
        default="UTC",
    )
    retention_days: int = variable(
        "FRUITS_RETENTION_DAYS",
        "age at which a finished run's temporary data is deleted, 1 to 3650",
        _integer("days", 1, 3650),
        default="30",
    )
    browser_endpoint_url: str | None = variable(
        "FRUITS_BROWSER_ENDPOINT_URL",
        "where browsers reach S3, for example of a local AWS",
        _endpoint,
        shown_default="none: the AWS console",
    )
    reap: bool = variable(
        "FRUITS_REAP",
        "`true`: clusters that no run waits for are terminated; `false`: only reported",
        _boolean,
        default="false",
    )
    reap_hours: int = variable(
        "FRUITS_REAP_HOURS",
        "age that no cluster of a run is meant to reach, 1 to 168",
        _integer("hours", 1, 168),
        default="24",
    )


VARIABLES: dict[str, Variable] = {item.name: item.metadata[_METADATA_KEY] for item in fields(Settings)}
"""The environment variables by the name of their field, in the order of docs/settings.md."""


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment. Raises JobError that names the variable at fault."""
    env = os.environ if environ is None else environ
    values = {name: each.read(env) for name, each in VARIABLES.items()}
    values["source_aws_conn_id"] = values["source_aws_conn_id"] or values["aws_conn_id"]
    _check_topic(values["sns_topic_arn"], values["allowed_regions"])
    return Settings(**values)


def _check_topic(arn: str | None, allowed_regions: tuple[str, ...]) -> None:
    match = _TOPIC.fullmatch(arn or "")
    if match and match["region"] not in allowed_regions:
        raise JobError(
            f"FRUITS_SNS_TOPIC_ARN is {arn!r}; expected a topic in one of {', '.join(allowed_regions)}, "
            "because messages name data"
        )
