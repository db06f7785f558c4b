"""A Param of the DAG: its default, its JSON schema, and the texts that describe it.

``RunRequest`` declares each Param once, as the metadata of a field. The trigger form, the check of a
value and docs/params.md are made from these declarations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from image_features.errors import JobError

_METADATA_KEY = "param"
_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"integer": int, "number": float, "array": tuple}


@dataclass(frozen=True)
class ParamSpec:
    """The declaration of one Param.

    ``schema`` is JSON Schema. Its keyword ``errorMessage`` (that of ajv-errors) says in words what a
    ``pattern`` expects. ``description`` is plain text: the form shows no markup in it.
    """

    default: Any
    title: str
    section: str
    description: str
    schema: Mapping[str, Any]

    @property
    def types(self) -> tuple[str, ...]:
        """JSON types of the value."""
        names = self.schema["type"]
        return (names,) if isinstance(names, str) else tuple(names)

    def parse(self, name: str, value: Any) -> Any:
        """``value`` as RunRequest holds it: an array as a tuple, a number as a float, an empty text as None
        where the Param may be null. Raises JobError that names the Param and the value."""
        if value == "" and "null" in self.types:
            value = None
        check_value(name, value, self.schema)
        if value is None:
            return () if "array" in self.types else None
        for kind, convert in _CONVERSIONS.items():
            if kind in self.types:
                return convert(value)
        return value


def param(default: Any, title: str, section: str, description: str, **schema: Any) -> Any:
    """A dataclass field that is a Param of the DAG. The dataclass itself gets no default."""
    return field(metadata={_METADATA_KEY: ParamSpec(default, title, section, description, schema)})


def specs_of(request_type: type) -> dict[str, ParamSpec]:
    """The Params that a dataclass declares, by name, in the order of its fields."""
    return {
        item.name: item.metadata[_METADATA_KEY]
        for item in fields(request_type)
        if _METADATA_KEY in item.metadata
    }


def check_value(name: str, value: Any, schema: Mapping[str, Any]) -> None:
    """Raise JobError that names the Param and the value when ``value`` does not fit ``schema``."""
    from jsonschema import Draft7Validator  # not needed to parse the DAG

    error = next(iter(Draft7Validator(schema).iter_errors(value)), None)
    if error is None:
        return
    if error.validator == "pattern" and "errorMessage" in schema:
        raise JobError(f"{name} is {value!r}; {schema['errorMessage']}")
    raise JobError(f"{name}: {error.message}")
