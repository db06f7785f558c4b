"""The kinds of faults for a FaultyAws, and errors in AWS's own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.faulty_aws import Answer, Call, Exchange, Fault
from support.waiting import eventually


@dataclass(frozen=True)
class Error:
    """An error of AWS; ``s3`` and ``status_s3`` are S3's own code and status for it."""

    code: str
    message: str
    status: int = 400
    s3: str = ""
    status_s3: int = 0

    def answer(self, call: Call) -> Answer:
        """The error in the format of the call's service."""
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
    """Answers with an error; the call does not reach AWS."""

    def __init__(self, error: Error, *names: str, **which: Any) -> None:
        super().__init__(names, **which)
        self.error = error

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.discard_request()
        exchange.send(self.error.answer(call))


class Meanwhile(Fault):
    """Runs a function of the test while the call waits, then passes the call on."""

    def __init__(self, act: Callable[[Call], object], *names: str, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})
        self.act = act

    def serve(self, call: Call, exchange: Exchange) -> None:
        self.act(call)
        exchange.pass_on(call)


class LoseAnswer(Fault):
    """AWS executes the call, and the connection ends before the caller has the answer."""

    def __init__(self, *names: str, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.complete(call)
        exchange.drop()


class CutBody(Fault):
    """Only the first part of the answer's body arrives, then the connection is reset.

    With ``length_matches`` the length header is that of the part: the answer looks complete.
    """

    def __init__(self, *names: str, share: float = 0.5, length_matches: bool = False, **which: Any) -> None:
        super().__init__(names, **{"times": 1, **which})
        self.share, self.length_matches = share, length_matches

    def serve(self, call: Call, exchange: Exchange) -> None:
        answer = exchange.complete(call)
        part = answer.body[: int(len(answer.body) * self.share)]
        if self.length_matches:
            exchange.send(Answer(answer.status, answer.headers, part))
        else:
            exchange.send(Answer(answer.status, answer.headers, part, len(answer.body)))
            exchange.drop()


class Amend(Fault):
    """Answers with AWS's answer, changed by a function of the test."""

    def __init__(self, change: Callable[[Call, Answer], Answer], *names: str, **which: Any) -> None:
        super().__init__(names, **which)
        self.change = change

    def serve(self, call: Call, exchange: Exchange) -> None:
        exchange.send(self.change(call, exchange.complete(call)))


class EndCluster(Fault):
    """Terminates the call's cluster, and answers with the reason ``code`` and ``message`` from then on.

    The call is answered when the cluster has ended in the local AWS: all but the reason is true.
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
