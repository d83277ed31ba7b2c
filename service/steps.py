"""The steps of a session in JSON: what a client gives for them, and what it is shown of their outputs.

It knows engines, points and rows; not how a request came in, and not what becomes of the state.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field

from service.engine import Answer, Row
from service.errors import EmptyInput, InvalidRequest, ItemTooLarge, RaggedInputs
from service.runtime import Array, cast
from service.sessions import Point
from service.settings import Settings
from service.wire import Strict


class StepInput(Strict):
    """The steps to take, in the one member that suits the model."""

    inputs: Annotated[list[Annotated[list[float], Field(fail_fast=True)]], Field(fail_fast=True)] | None = Field(
        None, description="k rows of features"
    )
    values: Annotated[list[float], Field(fail_fast=True)] | None = Field(
        None, description="k numbers, for a one-number model"
    )
    text: str | None = Field(None, description="for a model with a tokenizer; each token is a step")


def read_row(item: StepInput, start: Point, settings: Settings) -> tuple[Row, str]:
    """Return the row that goes on from `start`, and the name of the member that holds its input.

    Raises: InvalidRequest, EmptyInput, RaggedInputs or ItemTooLarge, with the member as their field.
    """
    given = [name for name in ("inputs", "values", "text") if getattr(item, name) is not None]
    manifest, most = start.engine.manifest, settings.max_steps
    wanted = "text" if manifest.text is not None else "values" if manifest.features is None else "inputs"
    allowed = {wanted, "values"} if manifest.features == 1 else {wanted}
    if len(given) != 1 or given[0] not in allowed:
        have = f"{' and '.join(given)} given" if given else "nothing to step on given"
        raise InvalidRequest(f"{have}; model {manifest.name!r} takes {' or '.join(sorted(allowed))}", field=wanted)
    if item.text is not None:
        most_chars = settings.max_text_chars
        if len(item.text) > most_chars:
            message = f"the text has {len(item.text)} characters; at most {most_chars}"
            raise ItemTooLarge(message, field="text", limit=most_chars)
        return Row(text=item.text, state=start.state, most_tokens=most), "text"
    dtype = manifest.sequence.dtype
    if item.inputs is not None:
        steps = _read_rows(item.inputs, manifest.features or 1, dtype)
    else:
        steps = cast(item.values, dtype).reshape(-1, *([] if manifest.features is None else [1]))
    if not len(steps):
        raise EmptyInput("no steps; give at least one", field=given[0])
    if len(steps) > most:
        raise ItemTooLarge(f"{len(steps)} steps; at most {most} in one item", field=given[0], limit=most)
    return Row(steps, start.state), given[0]


def _read_rows(rows: list[list[float]], features: int, dtype: str) -> Array:
    for index, row in enumerate(rows):
        if len(row) != features:
            message = f"{len(row)} values, {features} needed in every row"
            raise RaggedInputs(message, field=f"inputs[{index}]")
    return cast(rows, dtype).reshape(-1, features)


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


@lru_cache(maxsize=16)
def shown_time(seconds: int) -> str:
    """Return a time, in seconds since 1970 UTC, as ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
