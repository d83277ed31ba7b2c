"""Every error that Baton raises on purpose, as one tree; each leaf is one code with one HTTP status.

    BatonError
    ├── StartupError                    ends start-up; never reaches a client
    │   ├── ManifestError               a model directory that may not be served (file, field, what would be right)
    │   ├── SettingsError               a setting that is misspelt or impossible
    │   └── DeviceUnavailable           the device that was asked for is not there
    ├── CommandError                    ends a command of `baton`: what it was given, or the answer it got, will not do
    └── RequestError                    answered to the client as {"error": {...}}
        ├── Unauthorized · OriginRefused · NotFound · UnknownModel · MethodNotAllowed · UnsupportedMediaType
        ├── BodyTimeout · MalformedJson · InvalidRequest · WrongTask · UpgradeRequired · SequenceUnknown
        ├── TooLarge                    BodyTooLarge · BatchTooLarge · ItemTooLarge
        ├── InputError                  EmptyInput · RaggedInputs · MissingValues · HistoryTooShort ·
        │                               HorizonTooLong · QuantileUnavailable · NotFinite · PrecisionTooLow ·
        │                               SessionTooLong · ModelFailed · LoadFailed
        ├── StateError                  StateInvalid · StateWrongModel · StateExpired · StateModelGone · StateGone ·
        │                               StateFromFuture
        └── Unavailable                 Overloaded · RateLimited · QuotaExceeded · NotReady · Draining ·
                                        StoreUnavailable · DeadlineExceeded · InternalError

It knows no HTTP library and no other module of the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_MESSAGE_CHARS = 400
Reason = Literal[  # why a state token is refused, for the metrics and the log
    "ended",
    "expired",
    "from_the_future",
    "model_gone",
    "not_authentic",
    "not_base64url",
    "not_finite",
    "not_in_store",
    "null",
    "too_long",
    "too_short",
    "unknown_key",
    "unknown_version",
    "wrong_model",
    "wrong_size",
    "wrong_version",
]


class BatonError(Exception):
    """The root: everything that Baton raises on purpose."""


class StartupError(BatonError):
    """The service cannot start, or a model cannot be published, as things stand."""


class ManifestError(StartupError):
    """A model directory breaks the contract: names the file, the field and what would be right."""

    def __init__(self, file: Path | str, field: str, message: str) -> None:
        super().__init__(file, field, message)  # what pickle makes it of again, in another process
        self.file, self.field, self.message = str(file), field, message

    def __str__(self) -> str:
        return f"{self.file}: {self.field}: {self.message}"

    @classmethod
    @contextmanager
    def within(cls, part: str) -> Iterator[None]:
        """Have errors of the block name fields of a `part` of the manifest, as `start.`."""
        try:
            yield
        except cls as failure:
            raise cls(failure.file, part + failure.field, failure.message) from failure


class SettingsError(StartupError):
    """A setting is unknown, or its value cannot be used."""


class DeviceUnavailable(StartupError):
    """The requested device has no execution provider here; the message names those that exist."""


class CommandError(BatonError):
    """A command of `baton` cannot do what it was asked to; the message says what would be right."""


class RequestError(BatonError):
    """What a client is told: `code`, `message`, and where they apply `field`, `limit` and `retry_after_ms`.

    Units: retry_after_ms in milliseconds.
    """

    code: ClassVar[str]
    status: ClassVar[int]

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        limit: float | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(_clipped(message))
        self.message, self.field = str(self), field if field is None else _clipped(field)
        self.limit, self.retry_after_ms = limit, retry_after_ms

    def __copy__(self) -> Self:
        """Return the same error once more, for another item: whoever shows it adds its place."""
        twin = type(self).__new__(type(self), *self.args)
        twin.__dict__.update(self.__dict__)
        return twin

    @property
    def log_code(self) -> str:
        """The code as the log has it."""
        return self.code

    def body(self) -> dict[str, Any]:
        """Return the error as the API shows it, without the members that do not apply."""
        shown = {
            "code": self.code,
            "message": self.message,
            "field": self.field,
            "limit": self.limit,
            "retry_after_ms": self.retry_after_ms,
        }
        return {name: value for name, value in shown.items() if value is not None}


def _clipped(text: str) -> str:
    """Return `text`, which may quote a client, at a length fit for a log."""
    return text if len(text) <= MAX_MESSAGE_CHARS else f"{text[:MAX_MESSAGE_CHARS]}..."


class MalformedJson(RequestError):
    code, status = "malformed_json", 400


class Unauthorized(RequestError):
    code, status = "unauthorized", 401


class OriginRefused(RequestError):
    """A page of another origin, for which a browser sends what it need not ask about."""

    code, status = "origin_refused", 403


class NotFound(RequestError):
    code, status = "not_found", 404


class UnknownModel(RequestError):
    code, status = "unknown_model", 404


class MethodNotAllowed(RequestError):
    """`allowed` are the methods that would do, as the header `Allow` has them."""

    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class BodyTimeout(RequestError):
    code, status = "body_timeout", 408


class UnsupportedMediaType(RequestError):
    code, status = "unsupported_media_type", 415


class InvalidRequest(RequestError):
    code, status = "invalid_request", 422


class WrongTask(RequestError):
    code, status = "wrong_task", 422


class UpgradeRequired(RequestError):
    code, status = "upgrade_required", 426


class SequenceUnknown(RequestError):
    code, status = "sequence_unknown", 400


class TooLarge(RequestError):
    status = 413


class BodyTooLarge(TooLarge):
    code = "body_too_large"


class BatchTooLarge(TooLarge):
    code = "batch_too_large"


class ItemTooLarge(TooLarge):
    code = "item_too_large"


class InputError(RequestError):
    status = 422


class EmptyInput(InputError):
    code = "empty_input"


class RaggedInputs(InputError):
    code = "ragged_inputs"


class MissingValues(InputError):
    code = "missing_values"


class HistoryTooShort(InputError):
    code = "history_too_short"


class HorizonTooLong(InputError):
    code = "horizon_too_long"


class QuantileUnavailable(InputError):
    code = "quantile_unavailable"


class NotFinite(InputError):
    code = "not_finite"


class PrecisionTooLow(InputError):
    code = "precision_too_low"


class SessionTooLong(InputError):
    code = "session_too_long"


class ModelFailed(InputError):
    """The model, or its tokenizer, fails on this input even when it runs alone; the log has the cause."""

    code = "model_failed"


class LoadFailed(InputError):
    """A model that a client asks to be loaded, and that cannot be served."""

    code = "load_failed"


class StateError(RequestError):
    """A state token that cannot be used.

    `reason` is for the log and the metric label, `detail` for the log alone, and neither for the client.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason,
        detail: str = "",
        field: str | None = "state",
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message, field=field, retry_after_ms=retry_after_ms)
        self.reason: Reason = reason
        self.detail = detail

    @property
    def log_code(self) -> str:
        return f"{self.code}:{self.reason}:{self.detail}".rstrip(":")


class StateInvalid(StateError):
    """A token that this service did not make for this client: the client is not told which of that it is."""

    code, status = "state_invalid", 422

    def __init__(
        self,
        message: str = "the state token is damaged, was not made by this service, or belongs to someone else",
        *,
        reason: Reason,
        detail: str = "",
        field: str | None = "state",
    ) -> None:
        super().__init__(message, reason=reason, detail=detail, field=field)


class StateWrongModel(StateError):
    code, status = "state_wrong_model", 409


class StateExpired(StateError):
    code, status = "state_expired", 410


class StateModelGone(StateError):
    code, status = "state_model_gone", 410


class StateGone(StateError):
    code, status = "state_gone", 410


class StateFromFuture(StateError):
    """A genuine token that will do: a little later, or where the clock is not behind."""

    code, status = "state_from_future", 503


class Unavailable(RequestError):
    status = 503


class Overloaded(Unavailable):
    code, status = "overloaded", 429


class RateLimited(Unavailable):
    """A tenant calls more often than it may; the service itself has room."""

    code, status = "rate_limited", 429


class QuotaExceeded(Unavailable):
    """A tenant has as much as it may have at a time; the service itself has room."""

    code, status = "quota_exceeded", 429


class NotReady(Unavailable):
    code = "not_ready"


class Draining(Unavailable):
    code = "draining"


class StoreUnavailable(Unavailable):
    code = "store_unavailable"


class DeadlineExceeded(Unavailable):
    code, status = "deadline", 504


class InternalError(Unavailable):
    code, status = "internal", 500


def leaves(kind: type[RequestError] = RequestError) -> list[type[RequestError]]:
    """Return the errors of a kind that have a code."""
    below = [leaf for child in kind.__subclasses__() for leaf in leaves(child)]
    return below or [kind]


def model_ended() -> StateExpired:
    """Return why a session cannot go on once the version of its model has retired for good."""
    return StateExpired("the model version of this session has come to its end; begin a new session", reason="ended")


def reason_of(error: StartupError | OSError) -> str:
    """Return why a model cannot be served, without the server's paths: all who may see the index read it."""
    if isinstance(error, ManifestError):
        return f"{error.field}: {error.message}"
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)


def attempt(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | RequestError:
    """Return what `work` returns, or why the request for it is refused."""
    try:
        return work(*args, **kwargs)
    except RequestError as error:
        return error
