"""The steps of a session in JSON: what a client gives for them, what it is shown of their outputs and of its state.

It knows engines, points and rows; not how a request came in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from service.contract.tensors import LARGEST_FLOAT
from service.engine.engine import Answer, Row
from service.errors import EmptyInput, InvalidRequest, ItemTooLarge, RaggedInputs
from service.model.onnx_session import Array, cast
from service.settings import Settings
from service.state.sessions import Carried, Point, steps_left
from service.web.schema import Result, Strict

EXACT = 2**53 - 1  # JSON numbers are read as floats of 64 bits; beyond this they may not be what the client wrote


class StepInput(Strict):
    """The steps to take, in the one member that suits the model."""

    inputs: Annotated[list[Annotated[list[float], Field(fail_fast=True)]], Field(fail_fast=True)] | None = Field(
        None, description="k rows of features"
    )
    values: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="k numbers, for a model without features or with one"
    )
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
    given = [name for name in ("inputs", "values", "text") if getattr(item, name) is not None]
    manifest, most = start.engine.manifest, settings.max_steps
    left = steps_left(start, settings)
    wanted = "text" if manifest.text is not None else "values" if manifest.features is None else "inputs"
    allowed = {"inputs", "values"} if wanted != "text" and manifest.features in (None, 1) else {wanted}
    if len(given) != 1 or given[0] not in allowed:
        have = f"{' and '.join(given)} given" if given else "nothing to step on given"
        raise InvalidRequest(f"{have}; model {manifest.name!r} takes {' or '.join(sorted(allowed))}", field=wanted)
    if item.text is not None:
        max_chars = settings.max_text_chars
        if len(item.text) > max_chars:
            message = f"the text has {len(item.text)} characters; at most {max_chars}"
            raise ItemTooLarge(message, field="text", limit=max_chars)
        return Row(text=item.text, state=start.state, steps_left=left, max_tokens=most), "text"
    if item.inputs is not None:
        steps = _read_rows(item.inputs, manifest.features or 1, manifest.sequence.dtype)
    else:
        steps = _read_numbers(item.values, manifest.sequence.dtype, "values")
    steps = steps.reshape(-1, *([] if manifest.features is None else [manifest.features]))
    if not len(steps):
        raise EmptyInput("no steps; give at least one", field=given[0])
    if len(steps) > most:
        raise ItemTooLarge(f"{len(steps)} steps; at most {most} in one item", field=given[0], limit=most)
    return Row(steps, start.state, left), given[0]


def _read_rows(rows: list[list[float]], features: int, dtype: str) -> Array:
    for index, row in enumerate(rows):
        if len(row) != features:
            message = f"{len(row)} values, {features} needed in every row"
            raise RaggedInputs(message, field=f"inputs[{index}]")
    return _read_numbers(rows, dtype, "inputs")


def _read_numbers(numbers: object, dtype: str, field: str) -> Array:
    """Return `numbers`, in lists of equal length, as an array of `dtype`.

    Raises: InvalidRequest for the first that is not whole, or too large, where the model takes whole numbers.
    """
    if dtype in LARGEST_FLOAT:
        return cast(numbers, dtype)
    array, bounds = np.asarray(numbers, np.float64), np.iinfo(dtype)
    least, most = max(bounds.min, -EXACT), min(bounds.max, EXACT)
    bad = np.argwhere((array != np.floor(array)) | (array < least) | (array > most))
    if len(bad):
        place = tuple(bad[0])
        message = f"{array[place]:.17g} is no whole number from {least} to {most}, which this model takes"
        raise InvalidRequest(message, field=field + "".join(f"[{index}]" for index in place))
    return array.astype(dtype)


def show_step(start: Point, row: Row, answer: Answer, *, last_only: bool) -> dict[str, Any]:
    """Return what JSON shows of the steps: outputs of the last or of each, and the tokens of a text."""
    result: dict[str, Any] = {
        "outputs": {name: (rows[-1] if last_only else rows).tolist() for name, rows in answer.outputs.items()}
    }
    if row.encoding is not None:
        vocabulary, ids = start.engine.model.vocabulary, row.encoding.ids
        assert vocabulary is not None
        start.engine.metrics.text_read(vocabulary.unknown_ratio(ids))
        result["tokens"] = [vocabulary.tokenizer.id_to_token(token) for token in ids]
    return result


def show_carried(point: Point, carried: Carried) -> dict[str, Any]:
    """Return what JSON shows of the session's state."""
    result = {"state": carried.token, "step": point.step, "expires_at": _shown_time(carried.expires_ms // 1000)}
    return {**result, "held": True} if carried.held else result


@lru_cache(maxsize=16)
def _shown_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
