"""Checks a cluster shape and explains each fault: file, field, value, what to do.

The rules are in `emr_configs/schema.json`, whose descriptions are the advice in the messages. What a JSON
schema cannot express is checked after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from image_features.errors import JobError

PLACEHOLDERS = ("region", "bucket", "logs")
"""Names that ``{...}`` in a classification may have; a run's request replaces them by values."""

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")

# Graviton types have a g among the letters behind the generation of their family: m7g, c6gn, im4gn.
_GRAVITON = re.compile(r"[a-z]+\d+[a-z]*g[a-z]*\..+|a1\..+")

# JSON Schema accepts 4.0 as an integer, EMR does not.
_Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)


def check(where: Path, values: Any, schema: Path) -> None:
    """Raise JobError with all faults of a shape; ``where`` is the file that ``values`` come from."""
    rules = json.loads(schema.read_text())
    errors = sorted(_Validator(rules).iter_errors(values), key=lambda error: list(map(str, error.path)))
    faults = [fault for error in errors for fault in _faults(error, rules)]
    if not faults:
        faults = [*_types(values), *_cores(values), *_classifications(values)]
    if faults:
        raise JobError(f"{where}: {'; '.join(dict.fromkeys(faults))}")


def architecture_of(instance_type: str) -> str:
    """``arm64`` or ``x86_64``, by the name of the type's family."""
    return "arm64" if _GRAVITON.fullmatch(instance_type) else "x86_64"


def _faults(error: ValidationError, rules: Mapping[str, Any]) -> Iterator[str]:
    field, value, rule = _field(error.absolute_path), error.instance, error.schema
    if error.validator == "required":
        for name in error.validator_value:
            if name not in value:
                yield f"{_join(field, name)} is missing: {_advice(rule['properties'].get(name, rule), rules)}"
    elif error.validator == "additionalProperties":
        known = [name for name in rule["properties"] if not name.startswith("$")]
        for name in value:
            if name not in rule["properties"]:
                yield f"{_join(field, name)} is not a field: remove it, or use one of {', '.join(known)}"
    elif field or not isinstance(value, dict):
        yield f"{field or 'the shape'} is {_short(value)}: {_advice(rule, rules)}"
    else:
        yield f"the shape as a whole: {_advice(rule, rules)}"


def _advice(rule: Mapping[str, Any], rules: Mapping[str, Any]) -> str:
    if "description" not in rule and "$ref" in rule:
        return rules["$defs"][rule["$ref"].rpartition("/")[2]]["description"]
    return rule.get("description", "see emr_configs/README.md")


def _types(shape: Mapping[str, Any]) -> Iterator[str]:
    """Faults of the instance types: another architecture, or twice in one fleet."""
    for field, name in _instance_types(shape):
        if architecture_of(name) != shape["architecture"]:
            yield (
                f"{field} is {_short(name)}, which is {architecture_of(name)}, but architecture is "
                f"{_short(shape['architecture'])}: give types of one architecture only"
            )
    for at, fleet in enumerate(shape.get("instance_fleets", [])):
        names = [config["InstanceType"] for config in fleet["InstanceTypeConfigs"]]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"instance_fleets[{at}].InstanceTypeConfigs has {_short(name)} twice: give each type once"


def _instance_types(shape: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for at, group in enumerate(shape.get("instance_groups", [])):
        yield f"instance_groups[{at}].InstanceType", group["InstanceType"]
    for at, fleet in enumerate(shape.get("instance_fleets", [])):
        for n, config in enumerate(fleet["InstanceTypeConfigs"]):
            yield f"instance_fleets[{at}].InstanceTypeConfigs[{n}].InstanceType", config["InstanceType"]


def _cores(shape: Mapping[str, Any]) -> Iterator[str]:
    """Faults of the cores: without dynamic allocation, those of all executors are the worker cores."""
    defaults = shape["spark_defaults"]
    if defaults.get("spark.dynamicAllocation.enabled") == "true":
        return
    numbers = []
    for name in ("spark.executor.instances", "spark.executor.cores"):
        value = defaults.get(name)
        if value is None:
            yield f"spark_defaults has no {name}: give it, because dynamic allocation is off"
        elif not value.isdecimal() or int(value) < 1:
            yield f"spark_defaults: {name} is {_short(value)}: give a whole number as a string"
        else:
            numbers.append(int(value))
    if len(numbers) == 2 and numbers[0] * numbers[1] != shape["worker_cores"]:
        yield (
            f"worker_cores is {shape['worker_cores']}, but spark_defaults has {numbers[0]} executors of "
            f"{numbers[1]} cores: give {numbers[0] * numbers[1]}, or change the executors"
        )


def _classifications(shape: Mapping[str, Any]) -> Iterator[str]:
    own = shape.get("classifications", [])
    names = [item["Classification"] for item in own]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"classifications has {_short(name)} twice: merge its properties"
    for field, text in [*_texts("classifications", own), *_texts("spark_defaults", shape["spark_defaults"])]:
        for name in _PLACEHOLDER.findall(text):
            if name not in PLACEHOLDERS:
                known = ", ".join(f"{{{known}}}" for known in PLACEHOLDERS)
                yield f"{field} is {_short(text)}: {{{name}}} is unknown, use one of {known}"


def _texts(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every string inside ``value``, with its field."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(_join(field, name), item)
    else:
        for at, item in enumerate(value):
            yield from _texts(f"{field}[{at}]", item)


def _field(path: Iterable[str | int]) -> str:
    text = ""
    for part in path:
        text = f"{text}[{part}]" if isinstance(part, int) else _join(text, part)
    return text


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
