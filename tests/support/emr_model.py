"""Requests held against botocore's model of EMR."""

from __future__ import annotations

from typing import Any

import botocore.session
from botocore.validate import ParamValidator


def refused_by_emr(operation: str, request: dict[str, Any]) -> str:
    """Why botocore refuses a request; empty when it accepts it."""
    service = botocore.session.get_session().get_service_model("emr")
    report = ParamValidator().validate(request, service.operation_model(operation).input_shape)
    return report.generate_report()
