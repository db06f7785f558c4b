"""The kinds of faults that a FaultyAws is told to make, and AWS's own words for its errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.faulty_aws import Answer, Call, Exchange, Fault
from support.waiting import eventually


@dataclass(frozen=True)
class Error:
    """A refusal of AWS; ``s3`` and ``status_s3`` are S3's own way to say the same."""

    code: str
    message: str
    status: int = 400
    s3: str = ""
    status_s3: int = 0

    def answer(self, call: Call) -> Answer:
        """The refusal as the call's service writes it."""
        message = self.message.format(service=call.service, name=call.name)
        if call.service == "elasticmapreduce":
            body = json.dumps({"__type": self.code, "Message": message}).encode()
            return _answer(self.status, "application/x-amz-json-1.1", body)
        if call.service == "s3":
            text = f"<Error><Code>{self.s3 or self.code}</Code><Message>{message}</Message></Error>"
            return _answer(self.status_s3 or self.status, "application/xml", text.encode())
        text = f"<Error><Type>Sender</Type><Code>{self.code}</Code><Message>{message}</Message></Error>"
        return _answer(self.status, "text/xml", f"<ErrorResponse>{text}</ErrorResponse>".encode())


def _answer(status: int, kind: str, body: bytes) -> Answer:
    return Answer(status, [("Content-Type", kind)], body)


THROTTLED = Error("ThrottlingException", "Rate exceeded", s3="SlowDown", status_s3=503)
EXPIRED = Error(
    "ExpiredTokenException", "The security token included in the request is expired", s3="ExpiredToken"
)
DENIED = Error(
    "AccessDeniedException",
    "User: arn:aws:sts::123456789012:assumed-role/airflow/worker is not authorized to perform: "
    "{service}:{name} because no identity-based policy allows the {service}:{name} action",
    s3="AccessDenied",
    status_s3=403,
)
BROKEN = Error("InternalServerError", "An internal error occurred", 500)


class Refuse(Fault):
    """Answers with an error; AWS itself does not get to know of the call."""

    def __init__(self, error: Error, *names: str, **which: Any) -> None:
        super().__init__(names, **which)
        self.error = error

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.swallow()
        exchange.send(self.error.answer(call))


class Meanwhile(Fault):
    """Does something of the test's own while the call waits, then passes it on."""

    def __init__(self, act: Callable[[Call], object], *names: str, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})
        self.act = act

    def serve(self, call: Call, exchange: Exchange) -> None:
        self.act(call)
        exchange.pass_on(call)


class LoseAnswer(Fault):
    """AWS does the call, and the connection ends before the caller learns of it."""

    def __init__(self, *names: str, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.done(call)
        exchange.drop()


class CutBody(Fault):
    """Of the answer's body only the first part arrives, then the connection is reset.

    With ``told`` the length header says so: to the caller it is a whole answer.
    """

    def __init__(self, *names: str, share: float = 0.5, told: bool = False, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})
        self.share, self.told = share, told

    def serve(self, call: Call, exchange: Exchange) -> None:
        answer = exchange.done(call)
        part = answer.body[: int(len(answer.body) * self.share)]
        if self.told:
            exchange.send(Answer(answer.status, answer.headers, part))
        else:
            exchange.send(Answer(answer.status, answer.headers, part, len(answer.body)))
            exchange.drop()


class Amend(Fault):
    """Answers with AWS's answer, changed by the test's own function."""

    def __init__(self, change: Callable[[Call, Answer], Answer], *names: str, **which: Any) -> None:
        super().__init__(names, **which)
        self.change = change

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.send(self.change(call, exchange.done(call)))


class EndCluster(Fault):
    """Ends the call's cluster, and has it ended for ``code`` and ``message`` from then on.

    The cluster is terminated in the local AWS, and the call is answered when it has ended: what is
    told is true but for the reason.
    """

    def __init__(self, code: str, message: str, *names: str, **which: Any) -> None:
        super().__init__(names or ("DescribeCluster",), **{"times": 1, **which})
        self.code, self.message = code, message

    def serve(self, call: Call, exchange: Exchange) -> None:
        aws, values = exchange.aws, call.values
        cluster_id = values.get("ClusterId") or values["JobFlowId"]
        aws.ask("TerminateJobFlows", JobFlowIds=[cluster_id])
        eventually(lambda: aws.state(cluster_id).startswith("TERMINATED"))
        aws.reasons[cluster_id] = (self.code, self.message)
        exchange.pass_on(call)
