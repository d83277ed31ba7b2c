"""POST /v1/generate in JSON: what a client asks for, and what it is shown of each choice.

It knows pydantic and the forms that endpoints share, not how a sequence is generated.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field

from service.contract.manifest import Task
from service.endpoints.stateful.conditions import Condition
from service.endpoints.stateful.step_json import STATE_WANTED, StepInput
from service.engine.points import PenPoint
from service.state.sessions import Hold, Precision
from service.web.schema import (
    A_STATE,
    MAX_ID_CHARS,
    MAX_ITEMS,
    ErrorBody,
    FailedItem,
    Result,
    RunRequest,
    Summary,
    TimingMs,
    Token,
    Usage,
)
from service.web.searches import Beams, LengthPenalty

TASK: Task = "generate"
SEEDS = 2**63  # seeds are below
MAX_FORKS, MAX_STOPS, MAX_STOP_CHARS = 64, 8, 256
MAX_WHOLE_STEPS = 2**15  # of all choices of an answer: made with 5 logprobs each, it keeps the event loop 0.3 s

OF_IDS = ("temperature", "top_k", "top_p", "stop", "probabilities", "beams", "length_penalty")
OF_POINTS = ("bias", "svg")

Finish = Literal["stop", "length", "end", "error"]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]
Forks = Annotated[int, Field(ge=1, le=MAX_FORKS)]
Seed = Annotated[int, Field(ge=0, lt=SEEDS)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]


class GenerateItem(StepInput):
    """What a sequence begins with: a prompt, a state or a condition, one of these and a prompt, or nothing."""

    text_member: ClassVar[str] = "prompt"
    condition_member: ClassVar[str] = "condition"

    text: str | None = Field(
        None, alias="prompt", description="for a model with a tokenizer; each token is a step, and an empty text none"
    )
    id: str | None = Field(None, max_length=MAX_ID_CHARS, description="returned with the result")
    state: Token | None = Field(None, description="the state of an earlier answer, to go on from there")
    condition: Condition | None = Field(None, description="what a model with a start graph begins from")


class GenerateRequest(RunRequest):
    task: ClassVar[Task] = TASK
    items_field: ClassVar[str] = "items"

    items: list[GenerateItem] = Field(max_length=MAX_ITEMS, json_schema_extra={"minItems": 1})
    max_steps: int = Field(100, ge=1, description="ids, or points, to draw at most, and at most BATON_MAX_STEPS")
    temperature: Temperature = Field(1.0, description="0 takes the likeliest id; the higher, the more even the chances")
    top_k: int | None = Field(None, ge=1, description="draw from so many of the likeliest ids")
    top_p: TopP | None = Field(None, description="draw from the fewest likeliest ids that have this share together")
    seed: Seed | None = Field(
        None, description="the same seed gives the same answer; by default the service draws one, and says it"
    )
    stop: list[StopText] = Field(
        [],
        max_length=MAX_STOPS,
        description="texts that end a choice, and are not part of it; those that begin before the state are not seen",
    )
    n: Forks = Field(1, description="choices for each item, which fork after its prompt")
    beams: Beams | None = Field(
        None,
        description="search for the likeliest sequences, so many at a time, instead of drawing; the `n` best are given",
    )
    length_penalty: LengthPenalty = Field(
        1.0, description="with beams: 0 prefers what is likeliest as a whole, higher values longer sequences"
    )
    probabilities: bool = Field(False, description="add how likely the model held each drawn id")
    bias: float = Field(
        0.0, ge=0, le=100, description="of points: 0 draws as the model says; the higher, the likelier and tidier"
    )
    svg: bool = Field(False, description="of points: add a picture of the strokes")
    stream: bool = Field(False, description="answer with server-sent events, as the ids are drawn")
    state_every: int | None = Field(
        None, ge=1, description="with stream: a state after every so many steps, once no text is held back"
    )
    hold: Hold | None = Field(None, description="who keeps the states: the client in tokens, or the server")
    precision: Precision = Field("float32", description="of states in tokens")


class Choice(BaseModel):
    """One generated sequence; its state is after all ids that were drawn, those of the stop text and the end too."""

    choice: int
    seed: int | None = Field(
        None, description="the same request with this seed and n 1 gives this choice; left out with beams"
    )
    score: float | None = Field(None, description="with beams: log probability over length penalty, the best first")
    text: str | None = Field(None, description="for a model with a tokenizer, without the stop text")
    ids: list[int] | None = Field(None, description="for a model without")
    points: list[PenPoint] | None = Field(
        None, description="for a model of handwriting: offsets to the right and upwards, and 1 where a stroke ends"
    )
    svg: str | None = Field(None, description="a picture of the points, where it was asked for")
    probabilities: list[float] | None = Field(None, description="of each drawn id, where they were asked for")
    steps: int = Field(description="ids, or points, that were drawn; with beams without the end, as in the state")
    finish: Finish = Field(
        description="stop: a stop text came; end: the model says so; length: as many steps as may be; "
        "error: the item's error came in between, and the state goes on from there"
    )
    warnings: list[str] | None = Field(None, description="why the condition is doubtful")
    version: str | None = Field(None, description="the model version that made the state")
    state: str | None = Field(
        None, description="carry this into the next request; left out where the item's error is why it cannot be made"
    )
    step: int | None = Field(None, description="steps that the session has taken")
    expires_at: str | None = Field(None, description="until when the state can be used, ISO 8601 UTC")
    held: bool = Field(False, description="true where the server holds the state, and `state` only names it")


class Generated(Result):
    choices: list[Choice]


class GenerateFailed(FailedItem):
    """An item that could not be generated, or not to its end: then with what there is of its choices."""

    choices: list[Choice] | None = None


class GenerateAnswer(BaseModel):
    """Results in the order of the request's items; `error` repeats the first failure when every item failed."""

    model: str
    version: str
    results: list[Generated | GenerateFailed]
    summary: Summary
    usage: Usage
    timing_ms: TimingMs
    error: ErrorBody | None = None


EXAMPLES: dict[str, Any] = {
    "prompt": {
        "summary": "A text goes on",
        "value": {"model": "charlm", "items": [{"prompt": "ROMEO:\n"}], "max_steps": 40, "seed": 1},
    },
    "greedy": {
        "summary": "The likeliest character each time, until a stop text",
        "value": {
            "model": "charlm",
            "items": [{"id": "a", "prompt": "ROMEO:\n"}],
            "temperature": 0,
            "seed": 1,
            "stop": ["\n"],
        },
    },
    "forks": {
        "summary": "Three choices from one prompt, each from 40 likely characters at most",
        "value": {
            "model": "charlm",
            "items": [{"prompt": "JULIET:\n"}],
            "n": 3,
            "max_steps": 20,
            "temperature": 0.8,
            "top_k": 40,
            "top_p": 0.95,
            "seed": 1,
        },
    },
    "go_on": {
        "summary": "A sequence goes on from its state",
        "description": STATE_WANTED.replace("begin", "prompt").replace("/v1/step", "/v1/generate"),
        "value": {"model": "charlm", "items": [{"state": A_STATE}], "max_steps": 40, "seed": 1},
    },
    "condition": {
        "summary": "A session begins from a condition: the two likeliest translations, each with its state",
        "value": {"model": "translate", "items": [{"condition": {"text": "I am cold."}}], "beams": 4, "n": 2},
    },
    "by_hand": {
        "summary": "A word is written by hand: points of a pen, and a picture of them",
        "value": {
            "model": "handwriting",
            "items": [{"condition": {"text": "mother"}}],
            "max_steps": 300,
            "bias": 2,
            "seed": 3,
            "svg": True,
        },
    },
}
