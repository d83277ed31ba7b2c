"""The frames of a stream: what a client may send, and what is made of it.

It knows points, rows and answers; not connections, and not when a frame is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from service.contract.tensors import LARGEST_FLOAT
from service.endpoints.stateful.step_json import StepInput, show_carried
from service.engine.engine import Engine
from service.engine.rows import Answer, Row
from service.errors import InvalidRequest, ItemTooLarge, RequestError
from service.model.onnx_session import Array
from service.settings import Settings
from service.state.sessions import Carried, Hold, Point, Precision, steps_left
from service.web.schema import Strict


class Opening(Strict):
    """The first frame of a stream."""

    key: str | None = None
    model: str | None = None
    version: str | None = None
    state: bytes | None = None
    returned: Annotated[Literal["last", "all"], Field(alias="return")] = "last"
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    hold: Hold | None = None
    precision: Precision = "float32"


class StepFrame(StepInput):
    """A text frame after the first: steps to take, a wish for a checkpoint, or both."""

    checkpoint: bool = False

    @property
    def has_steps(self) -> bool:
        return any(given is not None for given in (self.inputs, self.values, self.text))


def read_binary(data: bytes, start: Point, settings: Settings) -> Row:
    """Return the row that goes on from `start` with the values in `data`, which are not copied.

    Shapes: k steps of the model's features, little-endian, of the dtype of the model's input.

    Raises: InvalidRequest for a model that takes or gives whole numbers, or a part of a step; ItemTooLarge.
    """
    manifest, most = start.engine.manifest, settings.max_steps
    tensors = (manifest.sequence, *manifest.outputs)
    others = [tensor for tensor in tensors if tensor.dtype not in LARGEST_FLOAT]
    if others:
        carried = " or ".join(LARGEST_FLOAT)
        message = f"binary frames carry {carried}, and {others[0].name} is {others[0].dtype}; send text frames"
        raise InvalidRequest(message)
    dtype = np.dtype(manifest.sequence.dtype).newbyteorder("<")
    step_bytes = dtype.itemsize * (manifest.features or 1)
    steps, rest = divmod(len(data), step_bytes)
    if rest or not steps:
        raise InvalidRequest(f"{len(data)} bytes; a step is {step_bytes}, and a frame one or more whole steps")
    if steps > most:
        raise ItemTooLarge(f"{steps} steps; at most {most} in one frame", limit=most)
    values = np.frombuffer(data, dtype)
    shaped = values if manifest.features is None else values.reshape(steps, -1)
    return Row(shaped, start.state, steps_left(start, settings))


def write_binary(engine: Engine, answer: Answer, last_only: bool) -> bytes:
    """Return the outputs of the last step or of each, step after step, in the manifest's order.

    All are of the widest of their dtypes, little-endian.
    """
    shown = [answer.outputs[output.name][-1 if last_only else 0 :] for output in engine.manifest.outputs]
    made = _by_step(shown)
    return made.astype(made.dtype.newbyteorder("<"), copy=False).tobytes()


def _by_step(outputs: Sequence[Array]) -> Array:
    if len(outputs) == 1:
        return outputs[0]
    return np.concatenate([rows.reshape(len(rows), -1) for rows in outputs], axis=1)


def opened(point: Point) -> dict[str, Any]:
    manifest = point.engine.manifest
    entries = [0 if point.state is None else point.engine.layout.entries(point.state)]
    shapes = [(entries if tensor.has_memory else []) + [*tensor.sizes] for tensor in manifest.outputs]
    outputs = [
        {"name": tensor.name, "dtype": tensor.dtype, "shape": shape}
        for tensor, shape in zip(manifest.outputs, shapes, strict=True)
    ]
    head = {"type": "open", "model": manifest.name, "version": manifest.version}
    taken = {"features": manifest.features, "dtype": manifest.sequence.dtype}
    return {**head, "step": point.step, **taken, "outputs": outputs}


def checkpoint(point: Point, carried: Carried, *, asked: bool) -> dict[str, Any]:
    return {"type": "checkpoint", "asked": asked, **show_carried(point, carried)}


def refusal(error: RequestError, request_id: str, step: int, *, final: bool) -> dict[str, Any]:
    return {"type": "error", "final": final, "error": {**error.body(), "request_id": request_id}, "step": step}
