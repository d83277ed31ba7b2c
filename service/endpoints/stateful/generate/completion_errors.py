"""Errors as OpenAI's API shows them."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.errors import RequestError

PREFIX = "/v1/completions"
TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


def completion_error(_request_id: str, error: RequestError) -> tuple[int, dict[str, Any]]:
    """Return the status of `error`, and its members by the names that they have there."""
    other = "server_error" if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    kind = TYPES.get(HTTPStatus(error.status), other)
    shown = {"message": error.message, "type": kind, "param": error.field, "code": error.code}
    return error.status, {"error": shown}
