"""What OpenAPI shows of errors: for each code that a call can answer, an example as the service says it.

It knows the error tree and how errors are shown, not who raises what: a call gives its own examples, and takes those
that several calls have from here. Invariant: an example is made by the code that makes the answers.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.engine.engine import DRIVEN_OFF
from service.errors import (
    BatchTooLarge,
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    Draining,
    EmptyInput,
    InternalError,
    InvalidRequest,
    MalformedJson,
    ModelFailed,
    NotFinite,
    NotReady,
    OriginRefused,
    Overloaded,
    RateLimited,
    RequestError,
    StateExpired,
    StateFromFuture,
    StateGone,
    StateInvalid,
    StateModelGone,
    StateWrongModel,
    StoreUnavailable,
    Unauthorized,
    UnknownModel,
    UnsupportedMediaType,
)
from service.web.error_shapes import Shape, error_object
from service.web.schema import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]

REQUEST_ID = "5b1f0c2d9e8a7f60-17"
UNAUTHORIZED = Unauthorized('this service asks for a header "Authorization: Bearer <API key>" with a known key')
CALLER_ERRORS = (
    UNAUTHORIZED,
    RateLimited(
        "a tenant may make 100 per 1 minute calls here; try again later, or make fewer and larger calls",
        limit=100,
        retry_after_ms=210,
    ),
)
ORIGIN_REFUSED = OriginRefused(
    "pages of https://app.example.com may not call here; BATON_CORS_ORIGINS names those that may"
)
UNKNOWN_MODEL = UnknownModel(
    "no model is called 'nonesuch'; this service has charlm, charlm-int8, denoise, denoise-live, digits, digits-live, "
    "forecast, forecast-live, handwriting, segrnn, sentiment, sentiment-live, spam, tagger, "
    "tagger-live, translate",
    field="model",
)
BODY_ERRORS = (
    MalformedJson("Invalid JSON: EOF while parsing an object at line 1 column 1"),
    *CALLER_ERRORS,
    BodyTimeout("the body did not arrive within 10000 ms", limit=10_000),
    BodyTooLarge("the body is larger than 4194304 bytes", limit=4_194_304),
)
READY_ERRORS = (
    Draining("the service is shutting down", retry_after_ms=1000),
    NotReady("no worker for sentiment", retry_after_ms=1000),
)
QUEUE_ERRORS = (
    Overloaded("2040 rows wait or run already and 16 more do not fit", limit=2048, retry_after_ms=85),
    InternalError("the service failed; the log has the cause"),
    Draining("the service is shutting down; another replica can take this", retry_after_ms=1000),
    NotReady("the worker of this model has stopped", retry_after_ms=1000),
)
DEADLINE = DeadlineExceeded("not run within the deadline of 10000 ms", retry_after_ms=85)
MODEL_FAILS = "the model fails on this input; the log has the cause"


def batch_errors(
    items: str, *others: RequestError, shape: Shape = error_object, answer: type[BaseModel] = ErrorAnswer
) -> Responses:
    """Return what OpenAPI shows of a call with a list called `items`: the errors of all such calls, and `others`."""
    return error_responses(
        *BODY_ERRORS,
        UNKNOWN_MODEL,
        BatchTooLarge("1025 items; at most 1024 in one request", field=items, limit=1024),
        UnsupportedMediaType("content type 'text/plain'; send application/json"),
        EmptyInput(f"{items} is empty; give at least one item", field=items),
        InvalidRequest(f"{items} is missing", field=items),
        *QUEUE_ERRORS,
        *others,
        shape=shape,
        answer=answer,
    )


def run_errors(
    items: str, *others: RequestError, shape: Shape = error_object, answer: type[BaseModel] = ErrorAnswer
) -> Responses:
    """Return the same for a call whose items are run."""
    place = f"{items}[0]"
    run = (NotFinite(DRIVEN_OFF, field=place), ModelFailed(MODEL_FAILS, field=place), DEADLINE)
    return batch_errors(items, *run, *others, shape=shape, answer=answer)


def state_errors(place: str) -> tuple[RequestError, ...]:
    """Return examples of why the state that a request carries at `place` cannot be used."""
    anew, moment = "begin a new session", "the replicas' clocks differ; try again, perhaps elsewhere"
    dated = "the state token is dated 90000 ms after this server's time, and 60000 ms are let pass"
    unusable = "the store of held states cannot be used now; nothing has changed, send the same again"
    return (
        StateInvalid(reason="not_authentic", field=place),
        StateWrongModel(
            "this state was made by model 'sentiment-live', the request names 'forecast-live'",
            reason="wrong_model",
            field=place,
        ),
        StateExpired(f"the state token has expired; {anew}", reason="expired", field=place),
        StateModelGone(
            f"the model version that made this state is not served here any more; {anew}",
            reason="model_gone",
            field=place,
        ),
        StateGone(
            f"the server holds this state no longer; go on from an older one, or {anew}",
            reason="not_in_store",
            field=place,
        ),
        StateFromFuture(f"{dated}: {moment}", reason="from_the_future", retry_after_ms=30_000, field=place),
        StoreUnavailable(unusable, retry_after_ms=1000, field=place),
    )


def error_responses(
    *examples: RequestError, shape: Shape = error_object, answer: type[BaseModel] = ErrorAnswer
) -> Responses:
    """Return what OpenAPI shows of errors, by status: an example of each code, the last where several are given."""
    responses: Responses = {}
    for error in {error.code: error for error in examples}.values():
        status, content = shape(REQUEST_ID, error)
        response = responses.setdefault(status, {"model": answer, "content": {"application/json": {"examples": {}}}})
        shown = {"description": f"What to do: docs/errors.md#{error.code}", "value": content}
        response["content"]["application/json"]["examples"][error.code] = shown
    return responses
