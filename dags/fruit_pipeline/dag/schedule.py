"""Runs by the clock: when one starts, and with which Params.

`FRUITS_SCHEDULE` says when, in `FRUITS_TIME_ZONE`. `FRUITS_SCHEDULE_PARAMS` names a JSON file with the
Params that differ from the form's defaults. A run that somebody triggers does not see the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import copy
from typing import Any

from fruit_pipeline.run.request import from_params
from fruit_pipeline.settings import Settings
from image_features.errors import JobError

_BY_THE_CLOCK = ("scheduled", "backfill")
_CRON_FIELDS = 5


def timetable(deployment: Settings) -> Any:
    """Airflow's timetable, or None without a schedule. Raises JobError when the expression is none."""
    text = deployment.schedule
    if text is None:
        return None
    from airflow.sdk import CronTriggerTimetable
    from croniter import croniter

    made = CronTriggerTimetable(text, timezone=deployment.time_zone.key)
    try:
        # Airflow takes seconds as a sixth field; others write them as the first.
        if len(made.expression.split()) != _CRON_FIELDS:
            raise ValueError(f"{_CRON_FIELDS} fields are expected")
        croniter(made.expression).get_next()  # 30 February never comes
    except ValueError as error:  # which croniter's own derive from
        raise JobError(
            f"FRUITS_SCHEDULE is {text!r}; expected a cron expression such as '0 6 * * 1', or @hourly, "
            f"@daily, @weekly, @monthly, @quarterly or @yearly: {error}"
        ) from None
    return made


def params(deployment: Settings, form: Mapping[str, Any]) -> dict[str, Any]:
    """The Params of scheduled runs that differ from the ``form``'s defaults; empty without a schedule.

    Raises JobError that names the file and the key at fault, or what a scheduled run would lack.
    """
    if deployment.schedule is None:
        return {}
    found = _read(deployment, form) if deployment.schedule_params else {}
    try:
        from_params({**_defaults(form), **found}, "scheduled", deployment.bucket)
    except JobError as error:
        raise JobError(
            f"FRUITS_SCHEDULE is set, but its runs could not start: {error}. "
            "FRUITS_SCHEDULE_PARAMS may name a file that says it for scheduled runs only"
        ) from None
    return found


def params_of_run(context: Mapping[str, Any], scheduled: Mapping[str, Any]) -> dict[str, Any]:
    """The Params of the DAG run of a task's ``context``; ``scheduled``: those of the file."""
    run = context["dag_run"]
    if run.run_type not in _BY_THE_CLOCK:
        return dict(context["params"])
    return {**context["params"], **scheduled, **(run.conf or {})}


def note(deployment: Settings, scheduled: Mapping[str, Any]) -> str:
    """What the DAG's page says of the schedule that is set, as Markdown."""
    if deployment.schedule is None:
        return "\n**Scheduled here**: no.\n"
    values = ", ".join(f"`{name}` = `{json.dumps(value)}`" for name, value in scheduled.items())
    when = f"`{deployment.schedule}` ({deployment.time_zone.key})"
    return f"\n**Scheduled here**: {when}, with {values or 'the defaults of the form'}.\n"


def _read(deployment: Settings, form: Mapping[str, Any]) -> dict[str, Any]:
    from airflow.sdk.exceptions import ParamValidationError

    path = deployment.schedule_params
    assert path is not None
    where = f"FRUITS_SCHEDULE_PARAMS: {path}"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise JobError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise JobError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise JobError(f"{where} holds no JSON object; expected Params by name")
    for name, value in found.items():
        if name not in form:
            raise JobError(f"{where}: there is no Param {name!r}; there are {', '.join(sorted(form))}")
        if name == "run_key":
            raise JobError(f"{where}: 'run_key' cannot be set: each scheduled run has a key of its own")
        try:
            copy(form[name]).resolve(value)  # which keeps the value as its own
        except ParamValidationError as error:
            why = str(error).splitlines()[0].removeprefix("Invalid input for param: ")
            raise JobError(f"{where}: {name!r}: {why}") from None
    return found


def _defaults(form: Mapping[str, Any]) -> dict[str, Any]:
    return {name: param.value for name, param in form.items()}
