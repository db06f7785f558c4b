"""Faults of an AWS whose clock differs from this machine's."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

from support.fault_kinds import Amend, Error, Refuse
from support.faulty_aws import Answer, Call, Exchange


class OtherClock(Amend):
    """Adds so many seconds to all times that EMR answers with, and to the date of the answer."""

    def __init__(self, seconds: float) -> None:
        def change(call: Call, answer: Answer) -> Answer:
            body = json.dumps(_shifted(json.loads(answer.body), seconds)).encode() if answer.body else b""
            return _dated(Answer(answer.status, answer.headers, body), seconds)

        super().__init__(change, service="elasticmapreduce")


class RefuseClock(Refuse):
    """Refuses signatures of this machine's clock, which is so many seconds behind AWS's."""

    def __init__(self, seconds: float, *names: str, **which: Any) -> None:
        words = "Signature expired: 20261121T150000Z is now earlier than 20261121T155500Z"
        super().__init__(Error("InvalidSignatureException", words), *names, **which)
        self.seconds = seconds

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.discard_request()
        exchange.send(_dated(self.error.answer(call), self.seconds))


def _shifted(values: Any, seconds: float) -> Any:
    if isinstance(values, dict):
        return {
            key: value + seconds if key.endswith("DateTime") else _shifted(value, seconds)
            for key, value in values.items()
        }
    return [_shifted(value, seconds) for value in values] if isinstance(values, list) else values


def _dated(answer: Answer, seconds: float) -> Answer:
    headers = [*answer.headers, ("Date", formatdate(time.time() + seconds, usegmt=True))]
    return Answer(answer.status, headers, answer.body)
