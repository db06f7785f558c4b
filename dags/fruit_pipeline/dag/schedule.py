"""Scheduled runs: their timetable and their Params.

`FRUITS_SCHEDULE` says when they start, in `FRUITS_TIME_ZONE`. `FRUITS_SCHEDULE_PARAMS` names a JSON file with
the Params that differ from the form's defaults. The file does not apply to runs that somebody triggers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fruit_pipeline.run.params import check_value
from fruit_pipeline.run.request import from_params
from fruit_pipeline.settings import Settings
from image_features.errors import JobError

_RUN_TYPES = ("scheduled", "backfill")
"""Types of DAG run that take the Params of the file."""

_CRON_FIELDS = 5


def timetable(deployment: Settings) -> Any:
    """Airflow's timetable, None without a schedule. Raises JobError for an expression that is not valid."""
    text = deployment.schedule
    if text is None:
        return None
    from airflow.sdk import CronTriggerTimetable
    from croniter import croniter

    table = CronTriggerTimetable(text, timezone=deployment.time_zone.key)
    try:
        # Airflow takes seconds as a sixth field; other programs write them as the first.
        if len(table.expression.split()) != _CRON_FIELDS:
            raise ValueError(f"{_CRON_FIELDS} fields are expected")
        croniter(table.expression).get_next()  # refuses dates that never come, such as 30 February
    except ValueError as error:  # the base of croniter's own errors
        raise JobError(
            f"FRUITS_SCHEDULE is {text!r}; expected a cron expression such as '0 6 * * 1', or @hourly, "
            f"@daily, @weekly, @monthly, @quarterly or @yearly: {error}"
        ) from None
    return table


def scheduled_params(deployment: Settings, form: Mapping[str, Any]) -> dict[str, Any]:
    """The Params of scheduled runs that differ from the ``form``'s defaults; empty without a schedule.

    Raises JobError that names the file and the Param at fault, or what a scheduled run would lack.
    """
    if deployment.schedule is None:
        return {}
    path = deployment.schedule_params
    params = _read_params(path, form) if path else {}
    defaults = {name: param.value for name, param in form.items()}
    try:
        from_params({**defaults, **params}, "scheduled", deployment.bucket)
    except JobError as error:
        raise JobError(
            f"FRUITS_SCHEDULE is set, but its runs could not start: {error}. "
            "FRUITS_SCHEDULE_PARAMS may name a file that sets it for scheduled runs only"
        ) from None
    return params


def params_of_run(context: Mapping[str, Any], scheduled: Mapping[str, Any]) -> dict[str, Any]:
    """The Params of the DAG run of a task's ``context``; ``scheduled``: those of the file."""
    run = context["dag_run"]
    if run.run_type not in _RUN_TYPES:
        return dict(context["params"])
    return {**context["params"], **scheduled, **(run.conf or {})}


def doc_note(deployment: Settings, scheduled: Mapping[str, Any]) -> str:
    """A paragraph of Markdown for the DAG's page, about the schedule of this deployment."""
    if deployment.schedule is None:
        return "\n**Scheduled here**: no.\n"
    values = ", ".join(f"`{name}` = `{json.dumps(value)}`" for name, value in scheduled.items())
    when = f"`{deployment.schedule}` ({deployment.time_zone.key})"
    return f"\n**Scheduled here**: {when}, with {values or 'the defaults of the form'}.\n"


def _read_params(path: Path, form: Mapping[str, Any]) -> dict[str, Any]:
    where = f"FRUITS_SCHEDULE_PARAMS: {path}"
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise JobError(f"{where} is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise JobError(f"{where} holds no JSON object; expected Params by name")
    for name, value in params.items():
        if name not in form:
            raise JobError(f"{where}: there is no Param {name!r}; there are {', '.join(sorted(form))}")
        if name == "run_key":
            raise JobError(f"{where}: 'run_key' cannot be set: each scheduled run has a key of its own")
        try:
            check_value(name, value, form[name].schema)
        except JobError as error:
            raise JobError(f"{where}: {error}") from None
    return params
