"""What can go wrong for a client, and which of it passes by itself.

It knows the form and the codes of the API's errors, neither HTTP nor WebSocket libraries. Invariant: `transient` is
true only where the same request may succeed unchanged. It is false for each 4xx but 429, and where no status is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

PASSING_STATUSES = {429, 502, 503, 504}  # 502 is a proxy's word for a replica that does not answer
INTERNAL = 500
ITEM_TOO_LARGE = "item_too_large"
CODES = {  # of errors that come without their HTTP status: those of items, and of streams
    400: ["malformed_json", "sequence_unknown"],
    401: ["unauthorized"],
    403: ["origin_refused"],
    404: ["not_found", "unknown_model"],
    405: ["method_not_allowed"],
    408: ["body_timeout"],
    409: ["state_wrong_model"],
    410: ["state_expired", "state_gone", "state_model_gone"],
    413: ["batch_too_large", "body_too_large", ITEM_TOO_LARGE],
    415: ["unsupported_media_type"],
    422: [
        *("empty_input", "history_too_short", "horizon_too_long", "invalid_request", "load_failed", "missing_values"),
        *(
            "model_failed",
            "not_finite",
            "precision_too_low",
            "quantile_unavailable",
            "ragged_inputs",
            "session_too_long",
        ),
        *("state_invalid", "wrong_task"),
    ],
    426: ["upgrade_required"],
    429: ["overloaded", "quota_exceeded", "rate_limited"],
    INTERNAL: ["internal"],
    503: ["draining", "not_ready", "state_from_future", "store_unavailable"],
    504: ["deadline"],
}
STATUSES = {code: status for status, codes in CODES.items() for code in codes}

SECONDS = re.compile(r"\d+(\.\d+)?")  # some proxies send parts of a second


class BatonError(Exception):
    """The root: everything that a client raises because of the service or the way to it."""


class ApiError(BatonError):
    """The service refused: `code`, `message`, `status`; where they apply `field`, `limit`, `retry_after`, `request_id`.

    `status` is None for the code of a newer service in an item or a stream. `choices`, each a Choice, are
    what a generation had written when it was cut short, with the states to go on from. Units: retry_after in seconds.
    """

    def __init__(
        self,
        error: Mapping[str, Any],
        *,
        status: int | None = None,
        retry_after: float | None = None,
        choices: Sequence[Any] = (),
    ) -> None:
        self.code: str = error["code"]
        self.message: str = error["message"]
        self.field: str | None = error.get("field")
        self.limit: float | None = error.get("limit")
        self.request_id: str | None = error.get("request_id")
        self.choices = choices
        self.status = STATUSES.get(self.code) if status is None else status
        milliseconds = error.get("retry_after_ms")
        self.retry_after = retry_after if milliseconds is None else milliseconds / 1000
        super().__init__(f"{self.code}: {self.message}" + (f" (field {self.field})" if self.field else ""))

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in PASSING_STATUSES


class Unreachable(BatonError):
    """No answer came: the connection was refused, cut, or silent for too long."""

    transient = True


class ProtocolError(BatonError):
    """The other side does not speak as a Baton service does, or counts otherwise than this client."""

    transient = False


class StreamInterrupted(BatonError):
    """A stream made no progress within its time limit, or failed twice at the same place; the cause is the error then.

    Nothing is lost: `state` and `step_count` are those of the last checkpoint (None and 0 where there was none and the
    stream began a session), `unacknowledged` holds the inputs that were sent since, of which the first `answered` had
    their outputs; without a token those are of the model's `version`, with which to begin again. The stream itself can
    be used again, too: it goes on trying.
    """

    def __init__(
        self,
        reason: object,
        *,
        state: str | None,
        version: str | None,
        step_count: int,
        unacknowledged: Sequence[Any],
        answered: int,
    ) -> None:
        super().__init__(f"no progress, {len(unacknowledged)} inputs since step {step_count} are kept: {reason}")
        self.state, self.version, self.step_count = state, version, step_count
        self.unacknowledged, self.answered = unacknowledged, answered


def reason(failure: BaseException) -> str:
    """Return why something failed; of an exception that says nothing, what it is."""
    return str(failure) or type(failure).__name__


def read_refusal(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error that an HTTP answer carries; the answer of a proxy gets the code `http_<status>`."""
    retry_after = _seconds(headers.get("retry-after"))
    try:
        return ApiError(json.loads(body)["error"], status=status, retry_after=retry_after)
    except (ValueError, KeyError, TypeError):
        told = body[:200].decode("utf-8", "replace")
        return ApiError({"code": f"http_{status}", "message": told}, status=status, retry_after=retry_after)


def _seconds(retry_after: str | None) -> float | None:
    """Return what a Retry-After header asks for: it holds seconds, or the date until which to wait."""
    if retry_after is None:
        return None
    if SECONDS.fullmatch(retry_after):
        return float(retry_after)
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if until.tzinfo is None:  # as for a zone of -0000
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
