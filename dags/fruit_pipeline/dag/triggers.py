"""Triggers that poll a cluster or a step in the triggerer, and log states and progress.

The provider's triggers log at each poll that the wait goes on. These log a state once, when it changes, and
the progress of a running step. Only states decide how a wait ends; reading the progress may fail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.hooks.emr import EmrHook
from airflow.providers.amazon.aws.utils.waiter_with_logging import RETRIABLE_ERROR_CODES
from airflow.triggers.base import BaseTrigger, TriggerEvent
from botocore.exceptions import BotoCoreError, ClientError

from fruit_pipeline.aws import clock, clusters
from fruit_pipeline.aws.clusters import Cluster

if TYPE_CHECKING:
    from fruit_pipeline.run.progress import Progress

log = logging.getLogger(__name__)

_LAST_PROGRESS_SECONDS = 30


class _StateTrigger(BaseTrigger):
    """Polls every ``waiter_delay`` seconds, ``attempts`` times at most, until a state is in ``end_states``.

    Sends one event: ``{"status": "success" | "timeout" | "error", "message": ...}``.
    """

    end_states: Collection[str]

    def __init__(
        self,
        job_flow_id: str,
        waiter_delay: float,
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
        """The arguments of __init__, from which the triggerer rebuilds this trigger."""
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
        logged = ""
        for attempt in range(self.attempts):
            if attempt:
                await asyncio.sleep(self.waiter_delay)
            try:
                state, text = await self._poll(emr)
            except (BotoCoreError, ClientError) as error:
                if not _transient(error):
                    return {"status": "error", "message": str(error)}
                state, text = "", f"EMR does not answer now ({_kind(error)}); polling goes on"
            if text != logged:
                log.info(text)
                logged = text
            if state in self.end_states:
                return {"status": "success", "message": text}
        return {"status": "timeout", "message": logged}

    async def _poll(self, emr: Any) -> tuple[str, str]:
        """The state, and a line about it."""
        raise NotImplementedError


def _transient(error: BotoCoreError | ClientError) -> bool:
    """Whether a later call may succeed: throttling, no network, a fault of the service."""
    if not isinstance(error, ClientError):
        return True
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or _kind(error) in RETRIABLE_ERROR_CODES


def _kind(error: BotoCoreError | ClientError) -> str:
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code"))
    return type(error).__name__


class ClusterTrigger(_StateTrigger):
    """Waits until a cluster runs steps, or ends."""

    end_states = (*clusters.READY, *clusters.ENDING)

    async def _poll(self, emr: Any) -> tuple[str, str]:
        cluster = Cluster.from_answer(await emr.describe_cluster(ClusterId=self.job_flow_id))
        text = f"cluster {cluster.id} is {cluster.state}"
        return cluster.state, f"{text}: {cluster.reason_message}" if cluster.reason_message else text


class StepTrigger(_StateTrigger):
    """Waits until a step has ended, and logs its progress.

    ``stage`` is a key of progress.FOLLOWERS and ``run_uri`` the run's prefix; without them only states are
    logged.
    """

    end_states = ("COMPLETED", "CANCELLED", "FAILED", "INTERRUPTED")

    def __init__(
        self, step_id: str, stage: str | None = None, run_uri: str | None = None, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self.step_id = step_id
        self.stage = stage
        self.run_uri = run_uri
        self._started: datetime | None = None
        self._skew = timedelta(0)  # by which AWS's clock is ahead of this machine's
        self._follower: Any = None
        self._logged = ""
        self._warned = False

    def _arguments(self) -> dict[str, Any]:
        own = {"step_id": self.step_id, "stage": self.stage, "run_uri": self.run_uri}
        return {**super()._arguments(), **own}

    async def _poll(self, emr: Any) -> tuple[str, str]:
        answer = await emr.describe_step(ClusterId=self.job_flow_id, StepId=self.step_id)
        step, self._skew = answer["Step"], clock.skew(answer)
        state = step["Status"]["State"]
        self._started = step["Status"].get("Timeline", {}).get("StartDateTime")
        text = f"step {self.step_id} ({step['Name']}) is {state}"
        return state, f"{text}: it waits for its turn" if state == "PENDING" else text

    async def _wait(self, hook: EmrHook, emr: Any) -> dict[str, Any]:
        if not (self.stage and self.run_uri):
            return await super()._wait(hook, emr)
        # In a task of its own, so that a slow S3 does not delay the polls of the state.
        progress = asyncio.create_task(self._log_progress_until_cancelled(hook))
        try:
            event = await super()._wait(hook, emr)
        finally:
            progress.cancel()
            with suppress(asyncio.CancelledError):
                await progress
        if self._started:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._log_progress(hook, self._started), _LAST_PROGRESS_SECONDS)
        return event

    async def _log_progress_until_cancelled(self, hook: EmrHook) -> None:
        while (started := self._started) is None:
            await asyncio.sleep(self.waiter_delay)
        while True:
            await self._log_progress(hook, started)
            from fruit_pipeline.run.progress import poll_interval  # the thread has imported the module by now

            await asyncio.sleep(poll_interval((self._now() - started).total_seconds(), self.waiter_delay))

    async def _log_progress(self, hook: EmrHook, started: datetime) -> None:
        try:
            # In a thread, because all triggers share the triggerer's loop.
            line = str(await asyncio.to_thread(self._progress, hook, started))
        except Exception as error:  # the step still runs, so the wait must go on
            if not self._warned:
                log.warning("the progress cannot be read now, it is read again later: %s", error)
                self._warned = True
            return
        if line != self._logged:
            log.info(line)
            self._logged = line

    def _progress(self, hook: EmrHook, started: datetime) -> Progress:
        # Imported here because of pyarrow, which would take the triggerer half a second at its start.
        from fruit_pipeline.aws.session import Aws
        from fruit_pipeline.run.progress import FOLLOWERS
        from image_features.contract import RunLayout

        if self._follower is None:
            aws = Aws(hook.get_session(), str(hook.region_name), hook.conn_config.endpoint_url)
            self._follower = FOLLOWERS[str(self.stage)](RunLayout(str(self.run_uri)), aws.storage)
        return self._follower.poll(started, self._now())

    def _now(self) -> datetime:
        """By AWS's clock, which also sets the times of the step and the shards."""
        return datetime.now(UTC) + self._skew
