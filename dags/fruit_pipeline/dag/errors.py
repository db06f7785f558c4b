"""Decorators that decide how an expected error ends a task: with a retry, or without one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError

Work = TypeVar("Work", bound=Callable[..., Any])


def fail_on_bad_input(work: Work) -> Work:
    """Fail a task without a retry on a JobError that a retry would only repeat, such as bad input."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except JobError as error:
            if error.retryable:
                raise
            raise AirflowFailException(str(error)) from None

    return wrapped  # type: ignore[return-value]


def explain_aws_errors(execute: Work) -> Work:
    """Turn boto3's errors in an operator's method into one line; retry the task unless that cannot help."""

    @functools.wraps(execute)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        what = f"cluster {self.job_flow_id}" if hasattr(self, "job_flow_id") else "a new cluster"
        try:
            with explained(what, aws_of(self), patient=True):
                return execute(self, *args, **kwargs)
        except JobError as error:
            failure = AirflowException if error.retryable else AirflowFailException
            raise failure(str(error)) from None

    return wrapped  # type: ignore[return-value]


def aws_of(operator: Any) -> Aws:
    """The AWS session of an operator's connection and region."""
    return Aws.from_connection(operator.aws_conn_id, operator.region_name)
