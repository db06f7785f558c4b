"""The part of a cluster's and a step's Spark configuration that applies on one machine without YARN."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local_emr.settings import Settings, machine_memory_mb

# Settings that are left out, and the reason for the controller log.
LEFT_OUT = [
    (r"spark\.yarn\..*", "no YARN here"),
    (r"spark\.dynamicAllocation\..*", "a fixed number of cores here"),
    (r"spark\.(master|submit\.deployMode)", "the server's --master decides"),
    (r"spark\.executor\.(instances|cores)", "the server's --master decides"),
    (r"spark\.executor\.memory", "the server's --master decides"),
    (r"spark\.executor\.memoryOverhead(Factor)?", "no containers here"),
    (r"spark\.emr\..*", "EMR's own Spark only"),
    (r"spark\.(decommission|blacklist|excludeOnFailure)\..*", "no nodes to lose"),
    (r"spark\.storage\.decommission\..*", "no nodes to lose"),
    (r"spark\.stage\.attempt\.ignoreOnDecommissionFetchFailure", "EMR's own Spark only"),
    (r"spark\.shuffle\.service\..*", "no external shuffle service"),
    (r"spark\.history\..*", "no history server"),
    (r"spark\.(driver|executor)\.extra(ClassPath|LibraryPath)", "names directories of an EMR node"),
    (r"spark\.hadoop\.(yarn|fs\.s3)\..*", "no EMRFS here"),
    (r"spark\.sql\.(emr|hive)\..*|spark\.sql\.parquet\.fs\.optimized\..*", "EMR's own Spark only"),
]
EVENT_LOG = re.compile(r"spark\.eventLog\..*")
REMOTE = re.compile(r"(s3[an]?|hdfs)://?.*")
ENVIRONMENT = re.compile(r"spark\.(?:executorEnv|yarn\.appMasterEnv)\.(\w+)")
MEMORY = re.compile(r"(\d+)([kmgt]?)b?", re.IGNORECASE)
UNITS_MB = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
# EMR reads the export classification of these and ignores it elsewhere.
EXPORTING = ("spark-env", "yarn-env", "hadoop-env")


@dataclass
class AdaptedConf:
    """The settings that apply, the environment variables that some set, a note on each that is left out."""

    conf: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def adapt(conf: Mapping[str, str], settings: Settings) -> AdaptedConf:
    """Separates the Spark settings that apply on this machine from the others."""
    adapted = AdaptedConf()
    remote_log = bool(REMOTE.fullmatch(conf.get("spark.eventLog.dir", "hdfs:///")))
    for name, value in conf.items():
        variable = ENVIRONMENT.fullmatch(name)
        if variable:
            adapted.env[variable[1]] = value
            continue
        reason = next((reason for pattern, reason in LEFT_OUT if re.fullmatch(pattern, name)), None)
        if reason is None and EVENT_LOG.fullmatch(name) and remote_log:
            reason = "this Spark writes neither to s3:// nor to hdfs://"
        if reason:
            adapted.notes.append(f"left out {name}={value}: {reason}")
        elif name == "spark.driver.memory":
            adapted.conf[name] = _capped(name, value, adapted.notes)
        else:
            adapted.conf[name] = value
    if settings.java_options:
        adapted.conf.setdefault("spark.driver.defaultJavaOptions", settings.java_options)
    if settings.worker_memory_mb:
        adapted.conf["spark.executor.memory"] = f"{settings.worker_memory_mb}m"
    return adapted


def _capped(name: str, value: str, notes: list[str]) -> str:
    """``value``, or half of the machine's memory if that is less; then ``notes`` gets an entry."""
    match = MEMORY.fullmatch(value.strip())
    limit = machine_memory_mb() // 2
    if match and int(match[1]) * UNITS_MB[match[2].lower()] > limit:
        notes.append(f"capped {name}={value} to {limit}m: half of this machine's memory")
        return f"{limit}m"
    return value


def spark_defaults(configurations: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The properties of the ``spark-defaults`` classification."""
    merged: dict[str, str] = {}
    for item in configurations:
        if item.get("Classification") == "spark-defaults":
            merged.update(item.get("Properties") or {})
    return merged


def exports(configurations: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The variables of the ``export`` classification inside spark-env, yarn-env or hadoop-env."""
    merged: dict[str, str] = {}
    for name in reversed(EXPORTING):  # spark-env comes last and wins, as for a Spark step
        for item in configurations:
            if item.get("Classification") == name:
                for inner in item.get("Configurations") or []:
                    if inner.get("Classification") == "export":
                        merged.update({k: _unquoted(v) for k, v in (inner.get("Properties") or {}).items()})
    return merged


def _unquoted(value: str) -> str:
    """``value`` without its quotes: EMR writes exports to a shell file, so people quote them."""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1]
    return value
