"""The JSON forms that all endpoints share: how a body is read, how an answer and an error are shown.

It knows pydantic and the error tree, not models or tasks. Invariant: a body is validated once, straight from bytes; an
item that is wrong is refused alone, with its place in the request, and its neighbours stay.
"""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, from_json, to_json

from service.contract.files import field_path
from service.contract.manifest import Task
from service.errors import (
    BatchTooLarge,
    EmptyInput,
    InvalidRequest,
    MalformedJson,
    NotFinite,
    RequestError,
    StateInvalid,
)

MAX_ID_CHARS = 128
MAX_ITEMS = 10_000  # no setting admits more: a longer list is refused before its items cost anything
MAX_ERRORS = 20_000  # listing them costs about 10 us each
NUMBERS, ROWS, LIST = "<numbers>", "<rows>", "<list>"
UNION_TAGS = {
    "<text>",
    "<object>",
    NUMBERS,
    ROWS,
    LIST,
}  # pydantic puts the tag of a union's branch into an error's location


class Strict(BaseModel):
    """A part of a request: unknown members refused, nothing converted, NaN and infinity refused, bytes in base64url."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, val_json_bytes="base64")


A_STATE = "<a state>"  # in examples, which cannot hold one: it is sealed by the service's own key, and expires
# Without an example Swagger UI makes one of its own, and fails at base64url.
Token = Annotated[bytes, WithJsonSchema({"type": "string", "contentEncoding": "base64url", "examples": [A_STATE]})]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that is refused before it is prepared; `id` is the client's, where it could be read."""

    error: RequestError
    id: str | None


class BatchRequest(Strict):
    """A request for a model of `task` that carries a list of items in the member that `items_field` names."""

    task: ClassVar[Task]
    items_field: ClassVar[str]

    model: str | None = Field(None, description="by default the only one of the task, or the one called like the task")


class RunRequest(BatchRequest):
    """A request whose items are run."""

    timeout_ms: int | None = Field(
        None, ge=1, description="how long the request may wait for its run, at most and by default BATON_TIMEOUT_MS"
    )


S = TypeVar("S", bound=Strict)
B = TypeVar("B", bound=BatchRequest)


def read_whole(kind: type[S], text: str | bytes) -> S:
    """Read one JSON object that stands or falls as a whole.

    Raises: MalformedJson when it is not JSON; InvalidRequest and its kin for the first of its mistakes.
    """
    try:
        unmarked = text.removeprefix("\ufeff") if isinstance(text, str) else text.removeprefix(codecs.BOM_UTF8)
        return kind.model_validate_json(unmarked)
    except ValidationError as failure:
        raise _explain(_mistakes(failure)[0]) from None


def parse(kind: type[B], body: bytes, *, max_items: int) -> tuple[B, dict[int, Rejected]]:
    """Read a request body; return it without the items that are refused, and those by their place.

    Raises: MalformedJson when it is not JSON; EmptyInput for no items and BatchTooLarge for more than `max_items`;
    InvalidRequest and its kin when the request is wrong as a whole in other ways.
    """
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise MalformedJson("the body is UTF-16, by its byte order mark; send JSON in UTF-8")
    read, rejected = _read(kind, body.removeprefix(codecs.BOM_UTF8))
    count, field = len(getattr(read, kind.items_field)) + len(rejected), kind.items_field
    if not count:
        raise EmptyInput(f"{field} is empty; give at least one item", field=field)
    if count > max_items:
        raise BatchTooLarge(f"{count} items; at most {max_items} in one request", field=field, limit=max_items)
    return read, rejected


def _read(kind: type[B], body: bytes) -> tuple[B, dict[int, Rejected]]:
    try:
        return kind.model_validate_json(body), {}
    except ValidationError as failure:
        errors = _mistakes(failure)
    if errors[0]["type"] == "too_long" and errors[0]["loc"] == (kind.items_field,):
        raise BatchTooLarge(f"more than {MAX_ITEMS} items", field=kind.items_field, limit=MAX_ITEMS)
    if errors[0]["type"] == "json_invalid":
        message = "the body is empty; send a JSON object" if not body.strip() else errors[0]["msg"]
        raise MalformedJson(message)
    by_item: dict[int, ErrorDetails] = {}
    for error in errors:
        location = error["loc"]
        if len(location) < 2 or location[0] != kind.items_field or not isinstance(location[1], int):
            raise _explain(error)
        kept = by_item.setdefault(location[1], error)
        if _read_further(error, kept):
            by_item[location[1]] = error
    raw = from_json(body)
    items = raw[kind.items_field]
    raw[kind.items_field] = [item for index, item in enumerate(items) if index not in by_item]
    rejected = {index: Rejected(_explain(error), _id_of(items[index])) for index, error in sorted(by_item.items())}
    return kind.model_validate_json(to_json(raw)), rejected


def _mistakes(failure: ValidationError) -> list[ErrorDetails]:
    """Raises: InvalidRequest for more mistakes than can be listed in a moment."""
    if failure.error_count() > MAX_ERRORS:
        raise InvalidRequest(f"more than {MAX_ERRORS} mistakes in one request", limit=MAX_ERRORS) from None
    return failure.errors(include_url=False)


def _read_further(error: ErrorDetails, other: ErrorDetails) -> bool:
    """Return whether `error` is of rows that read on where `other` is of numbers: rows are then what was meant."""
    place, other_place = error["loc"], other["loc"]
    if ROWS not in place or NUMBERS not in other_place:
        return False
    tag = place.index(ROWS)
    return other_place[:tag] == place[:tag] and other_place[tag + 1 :] < place[tag + 1 :]


def _explain(error: ErrorDetails) -> RequestError:
    field = field_path(tuple(part for part in error["loc"] if part not in UNION_TAGS)) or None
    if error["type"] == "json_invalid":
        return MalformedJson(error["msg"])
    if _mixes_rows(error):
        message = f"{error['msg']}, as those before it: all are numbers, or all are rows of numbers"
        return InvalidRequest(message, field=field)
    if error["type"] == "finite_number":
        return NotFinite(f"{field} is not a finite number", field=field)
    if error["type"] == "bytes_invalid_encoding":  # state tokens are the only bytes in a request
        return StateInvalid("not base64url, so no state token", reason="not_base64url", field=field)
    if error["type"] == "string_too_long":
        return InvalidRequest(error["msg"], field=field, limit=error["ctx"]["max_length"])
    if error["type"] == "extra_forbidden":
        return InvalidRequest(f"{field} is no member of this request", field=field)
    if error["type"] == "missing":
        return InvalidRequest(f"{field} is missing", field=field)
    return InvalidRequest(error["msg"], field=field)


def _mixes_rows(error: ErrorDetails) -> bool:
    """Return whether a list of numbers goes on with a row, or a list of rows with something else."""
    *_, branch, place = (None, None, *error["loc"])
    row = isinstance(error["input"], list)
    return place != 0 and (branch == ROWS or (branch == NUMBERS and row))


def _id_of(item: object) -> str | None:
    given = item.get("id") if isinstance(item, dict) else None
    return given if isinstance(given, str) and len(given) <= MAX_ID_CHARS else None


class ErrorBody(BaseModel):
    """What went wrong, where, and what would be right. Units: retry_after_ms in milliseconds."""

    code: str
    message: str
    field: str | None = None
    limit: float | None = None
    retry_after_ms: int | None = None
    request_id: str | None = None


class ErrorAnswer(BaseModel):
    """Why a request is refused. Where each of its items is, `error` stands beside their results."""

    error: ErrorBody


class FailedItem(BaseModel):
    """An item that could not be answered; its neighbours were."""

    index: int
    id: str | None
    error: ErrorBody


class Result(BaseModel):
    """What every answered item begins with; `index` is its place in the request."""

    index: int
    id: str | None = Field(description="the id that the request gave it")


class Summary(BaseModel):
    ok: int
    failed: int


class Usage(BaseModel):
    """What the answer cost: rows run, their time steps, those steps with padding, the largest batch they shared."""

    rows: int
    steps: int
    padded_steps: int
    batch_rows: int


class TimingMs(BaseModel):
    """Where the time went, in milliseconds: waiting for a run, in runs, and all of it."""

    queue: float
    run: float
    total: float


ResultT = TypeVar("ResultT", bound=Result)


class BatchAnswer(BaseModel, Generic[ResultT]):
    """Results in the order of the request's items; `error` repeats the first failure when every item failed."""

    model: str
    version: str
    results: list[ResultT | FailedItem]
    summary: Summary
    usage: Usage
    timing_ms: TimingMs
    error: ErrorBody | None = None
