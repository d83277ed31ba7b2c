"""What OpenAPI shows of the protocol's calls: examples over the models that come along, and of errors.

It knows the forms of requests, and which models are published; nothing that is served depends on it.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Path

from service.endpoints.v2.errors import error_texts
from service.errors import (
    BatchTooLarge,
    EmptyInput,
    HistoryTooShort,
    InvalidRequest,
    ItemTooLarge,
    ModelFailed,
    NotFinite,
    RaggedInputs,
    SequenceUnknown,
    SessionTooLong,
    StateWrongModel,
    UnsupportedMediaType,
)
from service.web.error_examples import (
    BODY_ERRORS,
    DEADLINE,
    MODEL_FAILS,
    ORIGIN_REFUSED,
    QUEUE_ERRORS,
    UNKNOWN_MODEL,
    state_errors,
)

ModelName = Annotated[str, Path(openapi_examples={"sentiment": {"value": "sentiment"}})]
ModelVersion = Annotated[str, Path(openapi_examples={"sentiment": {"value": "5"}})]

TEXTS = {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["What a lovely film.", "A dull, endless mess."]}
INFER: dict[str, tuple[str, str, Any]] = {  # of each example: the model, its version, and the rest
    "texts": ("sentiment", "5", {"summary": "Texts, scored", "value": {"inputs": [TEXTS]}}),
    "classes": (
        "sentiment",
        "5",
        {
            "summary": "The likeliest class of each text",
            "value": {"inputs": [TEXTS], "outputs": [{"name": "scores", "parameters": {"classification": 1}}]},
        },
    ),
    "series": (
        "forecast",
        "4",
        {
            "summary": "A series, forecast",
            "value": {
                "inputs": [{"name": "values", "datatype": "FP64", "shape": [1, 8], "data": [3, 5, 4, 6, 5, 7, 6, 8]}],
                "outputs": [{"name": "mean"}],
            },
        },
    ),
    "session": (
        "sentiment-live",
        "3",
        {
            "summary": "A session begins",
            "description": "The answer's parameters hold `state_token`; send it in the next request's `parameters` "
            "to go on.",
            "value": {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["What a"]}]},
        },
    ),
    "sequence": (
        "forecast-live",
        "4",
        {
            "summary": "A sequence begins, whose state the server keeps",
            "description": "Leave `sequence_start` out of the requests that follow.",
            "value": {
                "inputs": [{"name": "values", "datatype": "FP64", "shape": [1, 3], "data": [20.1, 20.4, 20.3]}],
                "outputs": [{"name": "anomaly"}],
                "parameters": {"sequence_id": "sensor-7", "sequence_start": True},
            },
        },
    ),
}
InferModel = Annotated[str, Path(openapi_examples={key: {"value": model} for key, (model, _, _) in INFER.items()})]
InferVersion = Annotated[
    str, Path(openapi_examples={key: {"value": version} for key, (_, version, _) in INFER.items()})
]
InferBody = Body(openapi_examples={key: example for key, (_, _, example) in INFER.items()})

COMPRESSED = UnsupportedMediaType("content encoding 'gzip'; send the body as it is")
INFER_ERRORS = error_texts(
    *BODY_ERRORS,
    ORIGIN_REFUSED,
    COMPRESSED,
    UNKNOWN_MODEL,
    InvalidRequest("model 'forecast-live' has no such input; it takes values, lengths, state_token", field="value"),
    EmptyInput("[1, 0] holds nothing; give at least one row and step", field="inputs[0].shape"),
    RaggedInputs("1 elements, where the shape [1, 2] holds 2", field="inputs[0].data"),
    HistoryTooShort("a row of 2 steps; at least 8", field="values", limit=8),
    NotFinite("a number is beyond the range of FP32", field="inputs[0].data"),
    ModelFailed(MODEL_FAILS),
    SessionTooLong("5 steps; the session may take 4 more", limit=4),
    SequenceUnknown(
        "model 'forecast-live' has no sequence 'sensor-8': the first request of one needs sequence_start, and one that "
        "was idle for BATON_STATE_TTL_S, or gave way to others in a full store, is gone"
    ),
    *state_errors("state_token"),
    StateWrongModel("the state is of version 3, the request names 4", reason="wrong_version", field="state_token"),
    BatchTooLarge("1025 rows; at most 1024 in one request", field="values", limit=1024),
    ItemTooLarge("a row of 4097 steps; at most 4096", field="values", limit=4096),
    *QUEUE_ERRORS,
    DEADLINE,
)
