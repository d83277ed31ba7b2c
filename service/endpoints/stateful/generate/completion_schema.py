"""POST /v1/completions in JSON: the form of OpenAI's API, with the session's state as an extra member.

It knows pydantic, not models. Invariant: a member of OpenAI's form that has no meaning here is taken at its neutral
value only, so nothing that a client asks for is left out in silence.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from service.contract.manifest import Task
from service.endpoints.stateful.generate.schema import (
    MAX_STOPS,
    TASK,
    Forks,
    Seed,
    StopText,
    Temperature,
    TopP,
)
from service.web.schema import A_STATE, LIST, MAX_ITEMS, RunRequest, Strict, Token

MOST_LOGPROBS = 5
DEFAULT_TOKENS = 16


def _form(value: object) -> str | None:
    return "<text>" if isinstance(value, str | bytes) else LIST if isinstance(value, list) else None


TEXT_OR_LIST = Discriminator(
    _form, custom_error_type="text_or_list", custom_error_message="Input should be a text, or a list of texts"
)
Prompts = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Field(min_length=1, max_length=MAX_ITEMS), Tag(LIST)],
    TEXT_OR_LIST,
]
Stops = Annotated[
    Annotated[StopText, Tag("<text>")] | Annotated[list[StopText], Field(max_length=MAX_STOPS), Tag(LIST)],
    TEXT_OR_LIST,
]
States = Annotated[
    Annotated[Token, Tag("<text>")] | Annotated[list[Token], Field(max_length=MAX_ITEMS), Tag(LIST)],
    TEXT_OR_LIST,
]


class StreamOptions(Strict):
    include_usage: bool | None = Field(False, description="a last event tells the usage")
    include_obfuscation: Literal[False] | None = Field(False, description="not supported but as false")


class CompletionRequest(RunRequest):
    task: ClassVar[Task] = TASK
    items_field: ClassVar[str] = "prompt"

    prompt: Prompts | None = Field("", description="a text or several; each token is a step, and an empty text none")
    state: States | None = Field(None, description="the state of a choice, or one for each prompt, to go on from there")
    max_tokens: int | None = Field(DEFAULT_TOKENS, ge=1, description="ids to draw at most, and at most BATON_MAX_STEPS")
    temperature: Temperature | None = Field(1.0, description="0 takes the likeliest token")
    top_p: TopP | None = Field(1.0, description="draw from the fewest likeliest tokens that have this share together")
    n: Forks | None = Field(1, description="choices for each prompt")
    stop: Stops | None = Field(
        None,
        description="texts that end a choice, and are not part of it; those that begin before the state are not seen",
    )
    seed: Seed | None = Field(None, description="the same seed gives the same answer")
    logprobs: Annotated[int, Field(ge=0, le=MOST_LOGPROBS)] | None = Field(
        None, description="the logarithms of the probabilities of the drawn token, and of so many likeliest ones"
    )
    echo: bool | None = Field(False, description="give the prompt back before the text")
    stream: bool | None = Field(False, description="answer with server-sent events")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="not used")
    best_of: int | None = Field(None, description="not supported but as `n`")
    presence_penalty: Literal[0] | None = Field(0, description="not supported but as 0")
    frequency_penalty: Literal[0] | None = Field(0, description="not supported but as 0")
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = Field(
        None, description="not supported but where it is empty"
    )
    suffix: Literal[""] | None = Field(None, description="not supported but where it is empty")

    @property
    def prompts(self) -> list[str]:
        return self.prompt if isinstance(self.prompt, list) else [self.prompt or ""]

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


class Logprobs(BaseModel):
    """Of each token: itself, its logarithm of the probability, those of the likeliest, and its place in the text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """A completion; `state` and what follows it are not of OpenAI's form: they are of the session after it."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None
    seed: int | None = Field(None, description="the same request with this seed and n 1 gives this choice")
    state: str | None = Field(None, description="in the next request it goes on from here")
    step: int | None = Field(None, description="steps that the session has taken")
    expires_at: str | None = Field(None, description="until when the state can be used, ISO 8601 UTC")
    held: bool = Field(False, description="true where the server holds the state, and `state` only names it")


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A whole answer, or an event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int = Field(description="seconds since 1970")
    model: str
    system_fingerprint: str = Field(description="the model's name and version")
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class CompletionErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str


class CompletionError(BaseModel):
    """Why a request is refused, in OpenAI's form."""

    error: CompletionErrorBody


EXAMPLES: dict[str, Any] = {
    "prompt": {
        "summary": "A text goes on",
        "value": {"model": "charlm", "prompt": "ROMEO:\n", "max_tokens": 40, "seed": 1},
    },
    "likely": {
        "summary": "The likeliest characters, each with the two likeliest of its place",
        "value": {"model": "charlm", "prompt": "ROMEO:\n", "max_tokens": 8, "temperature": 0, "logprobs": 2},
    },
    "stop": {
        "summary": "Two choices, until the end of a line",
        "value": {"model": "charlm", "prompt": ["ROMEO:\n"], "n": 2, "stop": "\n", "seed": 1, "echo": True},
    },
    "go_on": {
        "summary": "A text goes on from its state",
        "description": f"Put the `state` of a choice of the example `prompt` in the place of `{A_STATE}`.",
        "value": {"model": "charlm", "state": A_STATE, "max_tokens": 40, "seed": 1},
    },
}
