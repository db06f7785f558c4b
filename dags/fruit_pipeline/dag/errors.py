"""How an expected failure ends a task: retried, or failed for good."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from fruit_pipeline.aws.errors import explained
from fruit_pipeline.aws.session import Aws
from image_features.errors import JobError, StorageError

Work = TypeVar("Work", bound=Callable[..., Any])


def refuse_cleanly(work: Work) -> Work:
    """End a task at once on bad input: a retry would only say it again. Storage trouble is retried."""

    @functools.wraps(work)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        except StorageError:
            raise
        except JobError as error:
            raise AirflowFailException(str(error)) from None

    return wrapped  # type: ignore[return-value]


def patiently(work: Work) -> Work:
    """Say what AWS refuses an operator; fail for good where a retry would only say it again."""

    @functools.wraps(work)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        what = f"cluster {self.job_flow_id}" if hasattr(self, "job_flow_id") else "a new cluster"
        try:
            with explained(what, aws_of(self), patient=True):
                return work(self, *args, **kwargs)
        except StorageError as error:
            raise AirflowException(str(error)) from None
        except JobError as error:
            raise AirflowFailException(str(error)) from None

    return wrapped  # type: ignore[return-value]


def aws_of(operator: Any) -> Aws:
    return Aws.from_connection(operator.aws_conn_id, operator.region_name)
