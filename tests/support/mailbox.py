"""A subscriber of an SNS topic."""

from __future__ import annotations

import json
from typing import Any, Protocol


class Clients(Protocol):
    """Whatever makes boto3 clients of one account."""

    def client(self, service: str) -> Any: ...


class Mailbox:
    """A topic of SNS, and an SQS queue that is subscribed to it."""

    def __init__(self, aws: Clients, name: str) -> None:
        sns, self._sqs = aws.client("sns"), aws.client("sqs")
        self.topic: str = sns.create_topic(Name=name)["TopicArn"]
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=attributes["Attributes"]["QueueArn"])

    def read(self) -> list[dict[str, str]]:
        """Messages since the last call, oldest first, with their Subject and Message."""
        messages = []
        while batch := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for entry in batch:
                messages.append(json.loads(entry["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=entry["ReceiptHandle"])
        return sorted(messages, key=lambda message: message["Timestamp"])
