"""Trigger forms: Airflow's Params, made from the declarations of Params."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fruit_pipeline.run.params import ParamSpec
from fruit_pipeline.run.request import PARAMS


def airflow_params(specs: Mapping[str, ParamSpec]) -> dict[str, Any]:
    """Airflow's Param for each declaration, by name."""
    from airflow.sdk import Param

    return {
        name: Param(
            spec.default, description=spec.description, title=spec.title, section=spec.section, **spec.schema
        )
        for name, spec in specs.items()
    }


def form(shapes: Mapping[str, str], source: str = "", weights: str = "imagenet") -> dict[str, Any]:
    """The Params of `fruit_features` by name, as Airflow's objects.

    ``shapes``: descriptions of the cluster shapes by name. ``source``, ``weights``: the deployment's
    defaults.
    """
    params = airflow_params(PARAMS)
    params["source"].value = source
    params["weights"].value = weights
    # The form shows description_md, with its markup, only where there is no plain description.
    params["shape"].description = None
    params["shape"].schema |= {
        "enum": sorted(shapes),
        "description_md": "\n".join(f"- **{name}**: {text}" for name, text in sorted(shapes.items())),
    }
    return params
