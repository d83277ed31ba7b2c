"""How errors are shown: each part of the API has its shape, by the path that was asked for.

It knows errors, callers and answers, not who raised what. Invariant: an error that is shown is counted and logged once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic_core import to_json

from service.errors import MethodNotAllowed, RequestError, StateError, Unauthorized, UpgradeRequired
from service.web.answers import Headers, WholeAnswer, retry_after
from service.web.context import Caller

Shape = Callable[[str, RequestError], tuple[int, dict[str, Any]]]  # of a request's id and its error

DUE_HEADERS: dict[type[RequestError], Headers] = {
    Unauthorized: [(b"www-authenticate", b"Bearer")],
    UpgradeRequired: [(b"upgrade", b"websocket"), (b"connection", b"upgrade")],
}


def error_object(request_id: str, error: RequestError) -> tuple[int, dict[str, Any]]:
    """Return the status of `error`, and what /v1 shows of it: `{"error": {...}}`."""
    return error.status, {"error": {**error.body(), "request_id": request_id}}


SHAPES: Mapping[str, Shape] = {"": error_object}  # also of what has no path, as `OPTIONS *`


class ErrorAnswers:
    """Makes answers of errors; `shapes` are by the beginning of a path, and the longest that fits is taken."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = sorted(shapes.items(), key=lambda entry: -len(entry[0]))

    def answer(self, caller: Caller, error: RequestError) -> WholeAnswer:
        """Show `error` and count it."""
        metrics = caller.service.metrics
        metrics.refused(error.code)
        if isinstance(error, StateError):
            metrics.tokens_rejected.labels(error.reason).inc()
        caller.facts = {"code": error.code, "message": str(error)}
        shape = next(shape for prefix, shape in self._shapes if caller.path.startswith(prefix))
        headers = retry_after(error.body()) + DUE_HEADERS.get(type(error), [])
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", error.allowed.encode()))
        if caller.field(b"upgrade"):  # the body that was lost on the way in may still come, as another request
            headers = [header for header in headers if header[0] != b"connection"] + [(b"connection", b"close")]
        status, content = shape(caller.request_id, error)
        return WholeAnswer(to_json(content), status, headers)
