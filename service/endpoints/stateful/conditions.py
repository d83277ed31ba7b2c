"""What sessions begin from: conditions, as requests give them and as a start graph takes them.

It knows engines that have a start graph, and rows; not how a request came in.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from service.contract.manifest import Manifest
from service.engine.engine import Engine
from service.engine.rows import Row
from service.errors import RaggedInputs, RequestError, WrongTask
from service.model.onnx_session import Array, cast
from service.settings import Settings
from service.state.sessions import Point
from service.web.batch import Job, within
from service.web.numbers import NumbersInput, find_given, read_numbers, takes_numbers
from service.web.texts import check_length, doubts_about


class Condition(NumbersInput):
    """What a session begins from, in the one member that suits the model."""

    text: str | None = Field(None, description="for a start graph with a tokenizer")
    vector: list[float] | None = Field(None, description="for a start graph without a time axis")


class Beginning(Job):
    """A session that is to begin, once the start graph has run; `of` is the engine of its steps."""

    __slots__ = ("of",)

    def __init__(self, condition: Condition, of: Engine, settings: Settings, field: str) -> None:
        """Read a condition, which stands in `field`.

        Raises: WrongTask, InvalidRequest, EmptyInput, RaggedInputs or ItemTooLarge.
        """
        if of.starter is None:
            message = f"sessions of {of.manifest.name!r} begin from nothing: it has no start graph; leave {field} out"
            raise WrongTask(message, field=field)
        try:
            row, member = _read(condition, of.starter.manifest, settings)
        except RequestError as error:
            error.field = within(field, error.field)
            raise
        super().__init__(of.starter, row, f"{field}.{member}")
        self.of = of

    @property
    def doubts(self) -> list[str]:
        """Why the condition is doubtful, once the start graph has read it."""
        return [] if self.row.encoding is None else doubts_about(self.engine, self.row)


def _read(condition: Condition, manifest: Manifest, settings: Settings) -> tuple[Row, str]:
    """Return the row of a start graph, and the member that holds it; raises as `Beginning` does."""
    timed = manifest.sequence.has_time
    allowed = ("text",) if manifest.text is not None else takes_numbers(manifest) if timed else ("vector",)
    member = find_given(condition, ("inputs", "values", "text", "vector"), allowed, manifest)
    if condition.text is not None:
        check_length(len(condition.text), settings.max_text_chars, member)
        return Row(text=condition.text, max_tokens=settings.max_steps), member
    if condition.vector is None:
        return Row(read_numbers(condition, manifest, settings.max_steps)), member
    features = manifest.features or 1
    if len(condition.vector) != features:
        raise RaggedInputs(f"{len(condition.vector)} values, {features} needed", field=member)
    return Row(cast([condition.vector], manifest.sequence.dtype)), member


def start_step(manifest: Manifest) -> Array | None:
    """Return what a session takes first that begins with nothing, None where the model declares nothing to start with.

    Shapes: [1] or [1, features].
    """
    if manifest.feedback is None or manifest.feedback.start is None:
        return None
    step = np.array(manifest.feedback.start, manifest.sequence.dtype)
    return step.reshape(1, *([] if manifest.features is None else [manifest.features]))


def first_step(start: Point) -> Array | None:
    """Return what a session takes before anything else that has just begun from a condition; as `start_step` does."""
    manifest = start.engine.manifest
    return None if start.step or manifest.start is None else start_step(manifest)
