"""Tensors and states as a manifest declares them: dtypes, named axes, and what a session starts with.

It knows pydantic and the standard library only; training declares its models with it. Invariant: a `Tensor` or `State`
that exists has one batch axis, and a start that fits its dtype and shape.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

DTYPE_BYTES = {"float32": 4, "float64": 8, "int32": 4, "int64": 8}
LARGEST_FLOAT = {"float32": 2.0**128 - 2.0**104, "float64": sys.float_info.max}

Dtype = Literal["float32", "float64", "int32", "int64"]  # of states and constants, and of what most tasks take
TensorDtype = Literal[
    Dtype, "float16", "int8", "int16", "uint8", "uint16", "uint32", "uint64", "bool", "string"
]  # all that ONNX Runtime takes from numpy: no bfloat16, nothing of 8 bits or fewer but int8 and uint8
Size = Annotated[int, Field(ge=1, lt=2**31)]
Axis = Literal["batch", "time", "memory"]  # memory: as long as the condition that a session began from
NAMED_AXES = get_args(Axis)
Shape = tuple[Size | Axis, ...]


class FieldError(ValueError):
    """A broken rule, and the member that breaks it, relative to the part that raises."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Part(BaseModel):
    """A part of the manifest: immutable, unknown members refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Tensor(Part):
    """An input or output of the graph; `labels` names the entries of its last fixed axis."""

    name: str = Field(min_length=1)
    dtype: TensorDtype
    shape: Shape
    labels: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shape.count("batch") != 1 or max(self.shape.count("time"), self.shape.count("memory")) > 1:
            message = f"is {list(self.shape)}; it must hold 'batch' exactly once, 'time' and 'memory' at most once"
            raise FieldError("shape", message)
        if self.labels is not None and self.sizes[-1:] != (len(self.labels),):
            raise FieldError("labels", f"{len(self.labels)} do not fit the last size of shape {list(self.shape)}")
        if self.labels is not None and len(set(self.labels)) < len(self.labels):
            raise FieldError("labels", "must differ")
        return self

    @cached_property
    def has_time(self) -> bool:
        return "time" in self.shape

    @cached_property
    def has_memory(self) -> bool:
        return "memory" in self.shape

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The fixed axes: the shape of one step, or of a whole row where there is no time."""
        return tuple(size for size in self.shape if isinstance(size, int))

    @cached_property
    def row_order(self) -> tuple[int, ...]:
        """The places of batch, time and memory, where they are, and of the sizes: transposed so, rows come first."""
        return _row_order(self.shape)

    @cached_property
    def graph_order(self) -> tuple[int, ...]:
        """The way back from `row_order`: rows transposed so are as the graph has them."""
        return _inverse(self.row_order)


class State(Part):
    """A pair of tensors that carries state from one run to the next; without `output` the graph only reads it.

    A new session begins with `start`: one number, or nested lists of the state's shape without its batch axis. What a
    start graph makes takes its place. With an axis `memory` the state is as long as the condition that was given.
    """

    input: str = Field(min_length=1)
    output: str | None = Field(None, min_length=1)
    dtype: Dtype
    shape: Shape
    start: JsonValue = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.shape.count("batch") != 1 or self.shape.count("memory") > 1 or "time" in self.shape:
            message = f"is {list(self.shape)}; it must hold 'batch' exactly once, 'memory' at most once and no 'time'"
            raise FieldError("shape", message)
        for number in _numbers(self.start, self.row_shape if isinstance(self.start, list) else ()):
            if not fits(number, self.dtype):
                raise FieldError("start", f"{number} is no {self.dtype} that a state may hold")
        return self

    @cached_property
    def batch_axis(self) -> int:
        return self.shape.index("batch")

    @cached_property
    def ragged(self) -> bool:
        """Whether it is as long as the session's condition."""
        return "memory" in self.shape

    @cached_property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one session's state, the batch axis left out; of a ragged state that of one entry."""
        return tuple(size for size in self.shape if isinstance(size, int))

    @cached_property
    def row_order(self) -> tuple[int, ...]:
        """The places of batch, of memory if there is one, and of the sizes: transposed so, rows come first."""
        return _row_order(self.shape)

    @cached_property
    def graph_order(self) -> tuple[int, ...]:
        """The way back from `row_order`: rows transposed so are as the graph has them."""
        return _inverse(self.row_order)

    @property
    def row_bytes(self) -> int:
        """The size of one session's state, or of an entry of it where it is ragged."""
        return math.prod(self.row_shape) * DTYPE_BYTES[self.dtype]


def fits(number: float, dtype: str) -> bool:
    """Return whether `number` is finite in `dtype`, and whole where that holds whole numbers only."""
    if dtype in LARGEST_FLOAT:
        return abs(number) <= LARGEST_FLOAT[dtype]
    bound = 1 << (8 * DTYPE_BYTES[dtype] - 1)
    return -bound <= number < bound and int(number) == number


def _row_order(shape: Shape) -> tuple[int, ...]:
    named = [shape.index(axis) for axis in NAMED_AXES if axis in shape]
    return (*named, *(place for place in range(len(shape)) if place not in named))


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(order)), key=order.__getitem__))


def _numbers(value: JsonValue, shape: tuple[int, ...]) -> Iterator[float]:
    """Yield the numbers in nested lists of `shape`.

    Raises: FieldError when it has another shape or holds something else.
    """
    if shape and isinstance(value, list) and len(value) == shape[0]:
        for part in value:
            yield from _numbers(part, shape[1:])
    elif not shape and isinstance(value, int | float) and not isinstance(value, bool):
        yield value
    else:
        raise FieldError("start", "must be one number, or nested lists of numbers in the shape without its batch axis")
