"""Answers over HTTP: JSON, and the one form of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from edgeferry_runtime.serving.refusals import refuse

OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS


def json_answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Write JSON; NumPy arrays and numbers may stand in it. NaN and infinities, which JSON lacks, become null."""
    return Response(orjson.dumps(data, option=OPTIONS), status, headers, "application/json")


def error_answer(error: BaseException, also: Mapping[str, Any] | None = None) -> Response:
    """Write an error: ``{"error": TEXT}``, which every protocol's clients read, and what one of them has beside it."""
    refusal = refuse(error)
    headers = {} if refusal.retry_after_s is None else {"Retry-After": str(refusal.retry_after_s)}
    return json_answer({"error": str(refusal), **(also or {})}, refusal.kind.status, headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Answer whatever an endpoint raises."""
    return error_answer(error)
