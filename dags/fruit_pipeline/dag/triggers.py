"""Waiting for a cluster or a step in the triggerer, with a log that says what goes on.

The provider's triggers repeat at each look that it is not over yet. These say a state once, when it
changes, and how far a running step has come. Only states decide: a look at the progress may fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.emr import EmrHook
from airflow.providers.amazon.aws.utils.waiter_with_logging import RETRIABLE_ERROR_CODES
from airflow.triggers.base import BaseTrigger, TriggerEvent
from botocore.exceptions import BotoCoreError, ClientError

from fruit_pipeline.aws import clock

if TYPE_CHECKING:
    from fruit_pipeline.run.progress import Progress

log = logging.getLogger(__name__)

_CLUSTER_ENDS = ("RUNNING", "WAITING", "TERMINATING", "TERMINATED", "TERMINATED_WITH_ERRORS")
_STEP_ENDS = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")
_LAST_LOOK_SECONDS = 30


class _StateTrigger(BaseTrigger):
    """Looks every ``waiter_delay`` seconds, ``attempts`` times at most, until a state is one of ``ends``.

    Its one event says how that ended: ``{"status": "success" | "timeout" | "error", "message": ...}``.
    """

    ends: tuple[str, ...]

    def __init__(
        self,
        job_flow_id: str,
        waiter_delay: int,
        attempts: int,
        aws_conn_id: str | None,
        region_name: str | None,
    ) -> None:
        super().__init__()
        self.job_flow_id = job_flow_id
        self.waiter_delay = waiter_delay
        self.attempts = attempts
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{type(self).__module__}.{type(self).__qualname__}", self._arguments()

    def _arguments(self) -> dict[str, Any]:
        """What __init__ takes: the triggerer makes this trigger again from it."""
        return {
            "job_flow_id": self.job_flow_id,
            "waiter_delay": self.waiter_delay,
            "attempts": self.attempts,
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        hook = EmrHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
        async with await hook.get_async_conn() as emr:
            event = await self._wait(hook, emr)
        yield TriggerEvent(event)

    async def _wait(self, hook: EmrHook, emr: Any) -> dict[str, Any]:
        said = ""
        for attempt in range(self.attempts):
            if attempt:
                await asyncio.sleep(self.waiter_delay)
            try:
                state, text = await self._look(emr)
            except (BotoCoreError, ClientError) as error:
                if not _passes(error):
                    return {"status": "error", "message": str(error)}
                state, text = "", f"EMR cannot be asked now ({_kind(error)}); it is asked again"
            if text != said:
                log.info(text)
                said = text
            if state in self.ends:
                return {"status": "success", "message": text}
        return {"status": "timeout", "message": said}

    async def _look(self, emr: Any) -> tuple[str, str]:
        """The state, and a line about it."""
        raise NotImplementedError


def _passes(error: BotoCoreError | ClientError) -> bool:
    """Whether to ask again may help: throttling, no network, a fault of the service."""
    if not isinstance(error, ClientError):
        return True
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or _kind(error) in RETRIABLE_ERROR_CODES


def _kind(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code"))
    return type(error).__name__


class ClusterTrigger(_StateTrigger):
    """Until a cluster runs steps, or ends."""

    ends = _CLUSTER_ENDS

    async def _look(self, emr: Any) -> tuple[str, str]:
        answer = await emr.describe_cluster(ClusterId=self.job_flow_id)
        status = answer["Cluster"]["Status"]
        reason = status.get("StateChangeReason", {}).get("Message")
        text = f"cluster {self.job_flow_id} is {status['State']}"
        return status["State"], f"{text}: {reason}" if reason else text


class StepTrigger(_StateTrigger):
    """Until a step is over; says how far it has come.

    ``stage`` is one of progress.STAGES and ``run_uri`` where the run lies; without them the states
    are all that is said.
    """

    ends = _STEP_ENDS

    def __init__(
        self, step_id: str, stage: str | None = None, run_uri: str | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.step_id = step_id
        self.stage = stage
        self.run_uri = run_uri
        self._started: datetime | None = None
        self._ahead = timedelta(0)  # AWS's clock of this machine's
        self._follower: Any = None
        self._said = ""
        self._warned = False

    def _arguments(self) -> dict[str, Any]:
        own = {"step_id": self.step_id, "stage": self.stage, "run_uri": self.run_uri}
        return {**super()._arguments(), **own}

    async def _look(self, emr: Any) -> tuple[str, str]:
        answer = await emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)
        step, self._ahead = answer["Step"], clock.ahead(answer)
        state = step["Status"]["State"]
        self._started = step["Status"].get("Timeline", {}).get("StartDateTime")
        text = f"step {self.step_id} ({step['Name']}) is {state}"
        return state, f"{text}: it waits for its turn" if state == "PENDING" else text

    async def _wait(self, hook: EmrHook, emr: Any) -> dict[str, Any]:
        if not (self.stage and self.run_uri):
            return await super()._wait(hook, emr)
        # Beside the looks at the state: a slow S3 must not hold them up.
        telling = asyncio.create_task(self._tell(hook))
        try:
            event = await super()._wait(hook, emr)
        finally:
            telling.cancel()
            with suppress(asyncio.CancelledError):
                await telling
        if self._started:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._say_progress(hook, self._started), _LAST_LOOK_SECONDS)
        return event

    async def _tell(self, hook: EmrHook) -> None:
        while (started := self._started) is None:
            await asyncio.sleep(self.waiter_delay)
        while True:
            await self._say_progress(hook, started)
            from fruit_pipeline.run.progress import pause  # by now the thread has imported it

            await asyncio.sleep(pause((self._now() - started).total_seconds(), self.waiter_delay))

    async def _say_progress(self, hook: EmrHook, started: datetime) -> None:
        try:
            # In a thread: the triggerer's loop is shared by all triggers.
            line = str(await asyncio.to_thread(self._progress, hook, started))
        except Exception as error:  # whatever it is, the step runs on, and so must the wait
            if not self._warned:
                log.warning("the progress cannot be seen now, it is looked for again: %s", error)
                self._warned = True
            return
        if line != self._said:
            log.info(line)
            self._said = line

    def _progress(self, hook: EmrHook, started: datetime) -> Progress:
        # Imported here: it needs pyarrow, which takes the triggerer half a second.
        from fruit_pipeline.aws.session import Aws
        from fruit_pipeline.run.progress import STAGES
        from image_features.contract import RunLayout

        if self._follower is None:
            aws = Aws(hook.get_session(), str(hook.region_name), hook.conn_config.endpoint_url)
            self._follower = STAGES[str(self.stage)](RunLayout(str(self.run_uri)), aws.storage)
        return self._follower.look(started, self._now())

    def _now(self) -> datetime:
        """By AWS's clock, as the step's start and the shards' times are."""
        return datetime.now(UTC) + self._ahead
