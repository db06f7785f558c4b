"""Cluster shapes, read from the files of ``emr_configs``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fruit_pipeline.cluster import shape_schema
from image_features.errors import JobError

FEATURES, NOTEBOOKS = "features", "notebooks"

_OTHER_FILES = ("classifications", "schema")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one role and one market.

    ``units`` is the capacity to buy; a node of a type provides ``weights[type]`` units of it. A group has
    one type of weight 1; of a fleet's types EMR chooses.
    """

    role: str  # MASTER, CORE or TASK
    market: str  # ON_DEMAND or SPOT
    units: int
    weights: Mapping[str, int]


@dataclass(frozen=True)
class Shape:
    """A cluster shape; the README of `emr_configs` explains the fields."""

    description: str
    purpose: str
    release_label: str
    architecture: str
    applications: list[str]
    worker_cores: int
    idle_timeout_seconds: int
    ebs_gb: int
    spark_defaults: dict[str, str]
    classifications: list[dict[str, Any]] = field(default_factory=list)
    instance_groups: list[dict[str, Any]] = field(default_factory=list)
    instance_fleets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def nodes(self) -> list[Nodes]:
        """The nodes to buy, in one form for groups and fleets."""
        nodes = [
            Nodes(group["InstanceRole"], group["Market"], group["InstanceCount"], {group["InstanceType"]: 1})
            for group in self.instance_groups
        ]
        for fleet in self.instance_fleets:
            weights = {
                config["InstanceType"]: config.get("WeightedCapacity", 1)
                for config in fleet["InstanceTypeConfigs"]
            }
            for market, target in (("ON_DEMAND", "TargetOnDemandCapacity"), ("SPOT", "TargetSpotCapacity")):
                if fleet.get(target):
                    nodes.append(Nodes(fleet["InstanceFleetType"], market, fleet[target], weights))
        return nodes


def load_shape(home: Path, name: str) -> Shape:
    """Read and check ``emr_configs/<name>.json``. Raises JobError with file, field, value and what to do."""
    known = shape_names(home)
    if name not in known:
        raise JobError(f"unknown cluster shape {name!r}; expected one of {', '.join(known)}")
    path = shape_file(home, name)
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise JobError(f"{path} is not JSON: {error}") from error
    return parse_shape(values, home, path)


def parse_shape(values: Any, home: Path, path: Path) -> Shape:
    """Check ``values``, the content of the file ``path``. Raises JobError as ``load_shape`` does."""
    shape_schema.check(path, values, home / "emr_configs" / "schema.json")
    return Shape(**{name: value for name, value in values.items() if name != "$schema"})


def shape_file(home: Path, name: str) -> Path:
    """Path of a shape's file, which need not exist."""
    return home / "emr_configs" / f"{name}.json"


def shape_names(home: Path) -> list[str]:
    """Names of the shapes. Raises JobError when there is none."""
    folder = home / "emr_configs"
    names = sorted(path.stem for path in folder.glob("*.json") if path.stem not in _OTHER_FILES)
    if not names:
        raise JobError(f"{folder} has no cluster shape; set FRUITS_HOME to the folder of emr_configs")
    return names


def descriptions(home: Path, purpose: str = FEATURES) -> dict[str, str]:
    """Description by name of every shape for ``purpose``, for a form."""
    shapes = {name: load_shape(home, name) for name in shape_names(home)}
    return {name: shape.description for name, shape in shapes.items() if shape.purpose == purpose}
