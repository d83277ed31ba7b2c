"""Errors as the protocol shows them: one text, `{"error": "..."}`."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from service.errors import RequestError
from service.web.error_examples import Responses, error_responses

PREFIX = "/v2"


class ErrorText(BaseModel):
    """What was wrong, where, and what would be right."""

    error: str


def error_text(request_id: str, error: RequestError) -> tuple[int, dict[str, Any]]:
    """Return the status and the text of `error`; input that cannot be used is 400 in this protocol."""
    status = HTTPStatus.BAD_REQUEST if error.status == HTTPStatus.UNPROCESSABLE_ENTITY else error.status
    told = error.field is None or error.message.split(" ", 1)[0] == error.field
    return status, {"error": error.message if told else f"{error.field}: {error.message}"}


def error_texts(*examples: RequestError) -> Responses:
    """Return what OpenAPI shows of errors, by status: an example of each code."""
    return error_responses(*examples, shape=error_text, answer=ErrorText)
