"""The steps of a session in JSON: what a client gives for them, what it is shown of their outputs and of its state.

It knows engines, points and rows; not how a request came in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from service.endpoints.stateful.conditions import first_step
from service.engine.rows import Answer, Row
from service.errors import ItemTooLarge, PrecisionTooLow, WrongTask
from service.settings import Settings
from service.state.sessions import Carried, Point, steps_left
from service.web.error_examples import state_errors
from service.web.numbers import NumbersInput, find_given, read_numbers, takes_numbers
from service.web.schema import A_STATE, Result
from service.web.texts import check_length

STATE_WANTED = f"Put the `state` of an answer to the example `begin` of /v1/step in the place of `{A_STATE}`."
STATE_ERRORS = (
    *state_errors("items[0].state"),
    PrecisionTooLow(
        'state \'h\' holds 70000, beyond float16 (65504); ask for "precision": "float32"',
        field="items[0].state",
        limit=65_504,
    ),
    ItemTooLarge(
        'the state has 2000000 bytes; a token carries at most 1048576: leave out "hold": "client"',
        field="items[0]",
        limit=1_048_576,
    ),
    WrongTask(
        "'sentiment' is for task 'sentiment'; for 'step' there is charlm, charlm-int8, denoise-live, digits-live, "
        "forecast-live, handwriting, sentiment-live, tagger-live, translate",
        field="model",
    ),
)


class StepInput(NumbersInput):
    """The steps to take, in the one member that suits the model; texts are in the member called `text_member`.

    Where a condition may come, it is in the member called `condition_member`.
    """

    text_member: ClassVar[str] = "text"
    condition_member: ClassVar[str] = "begin"

    text: str | None = Field(None, description="for a model with a tokenizer; each token is a step")


class CarriedResult(Result):
    """What a result says of a session's state."""

    version: str = Field(description="the model version that made the state")
    state: str = Field(description="carry this into the next request")
    step: int = Field(description="steps that the session has taken")
    expires_at: str = Field(description="until when the state can be used, ISO 8601 UTC")
    held: bool = Field(False, description="true where the server holds the state, and `state` only names it")


def read_row(item: StepInput, start: Point, settings: Settings) -> tuple[Row, str]:
    """Return the row that goes on from `start`, and the name of the member that holds its input.

    Raises: InvalidRequest, EmptyInput, RaggedInputs or ItemTooLarge, with the member as their field.
    """
    manifest, most, first = start.engine.manifest, settings.max_steps, first_step(start)
    left = steps_left(start, settings)
    if first is not None and not item.text and item.inputs is None and item.values is None:
        return Row(first, start.state, left), item.condition_member
    allowed = (item.text_member,) if manifest.text is not None else takes_numbers(manifest)
    member = find_given(item, ("inputs", "values", "text"), allowed, manifest)
    if item.text is not None:
        check_length(len(item.text), settings.max_text_chars, member)
        return Row(text=item.text, state=start.state, steps_left=left, max_tokens=most, first=first), member
    steps = read_numbers(item, manifest, most)
    return Row(steps if first is None else np.concatenate([first, steps]), start.state, left), member


def show_step(start: Point, row: Row, answer: Answer, *, last_only: bool) -> dict[str, Any]:
    """Return what JSON shows of the steps: outputs of the last or of each, and the tokens of a text."""
    result: dict[str, Any] = {
        "outputs": {name: (rows[-1] if last_only else rows).tolist() for name, rows in answer.outputs.items()}
    }
    vocabulary = start.engine.model.vocabulary
    if vocabulary is not None:
        if row.encoding is not None:
            start.engine.metrics.text_read(vocabulary.unknown_ratio(row.encoding.ids))
        ids = row.steps if row.steps.ndim == 1 else row.steps[:, 0]
        result["tokens"] = [vocabulary.tokenizer.id_to_token(token) for token in ids.tolist()]
    return result


def show_carried(point: Point, carried: Carried) -> dict[str, Any]:
    """Return what JSON shows of the session's state."""
    result = {"state": carried.token, "step": point.step, "expires_at": _shown_time(carried.expires_ms // 1000)}
    return {**result, "held": True} if carried.held else result


@lru_cache(maxsize=16)
def _shown_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
