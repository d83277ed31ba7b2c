"""The manifest: everything that a model version declares before Baton serves it.

The service owns this module; training validates what it publishes with the same code. It knows pydantic and the
standard library only: `service.model.graph_check` checks the graph against the manifest. `TASKS` is the table of tasks;
what runs a model reads the facts that its manifest derives, and never asks for its task. Invariant: a `Manifest` that
exists is consistent in itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.contract.provenance import Network, Provenance, Sha256
from service.contract.tensors import (
    DTYPE_BYTES,
    LARGEST_FLOAT,
    FieldError,
    Part,
    Shape,
    Size,
    State,
    Tensor,
    TensorDtype,
)

Arithmetic = Literal["float32", "float16", "int8"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Quantile = Annotated[float, Field(gt=0, lt=1)]
Number = float | int


def _number_or_numbers(value: object) -> object:
    given = value if isinstance(value, list | tuple) else [value]
    finite = [isinstance(n, int | float) and not isinstance(n, bool) and abs(n) < math.inf for n in given]
    if not given or not all(finite):
        raise ValueError("must be one finite number, or a list of finite numbers")
    return value


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise PydanticCustomError("unknown_task", "Input should be {tasks}", {"tasks": _any_of(map(repr, TASKS))})
    return name


def _any_of(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"


Constant = Annotated[Number | tuple[Number, ...], BeforeValidator(_number_or_numbers)]
Task = Annotated[str, AfterValidator(_known_task), Field(json_schema_extra=lambda schema: schema.update(enum=[*TASKS]))]


class Text(Part):
    """How text becomes ids; `polarity` weighs the labels into one number from -1 to 1."""

    tokenizer: FileName
    sha256: Sha256
    max_length: Size
    unknown_token: str
    polarity: tuple[Annotated[float, Field(ge=-1, le=1)], ...] | None = None


class Forecast(Part):
    """What a forecasting model takes and gives. Units: numbers of values; quantiles as probabilities."""

    min_history: Size
    max_history: Size
    horizon: Size
    quantiles: tuple[Quantile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_history > self.max_history:
            raise ValueError(f"min_history {self.min_history} is above max_history {self.max_history}")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles must rise strictly")
        return self


class Manifest(Part):
    """Everything that the service must know of one model version."""

    schema_version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    version: str = Field(pattern=r"^[1-9][0-9]{0,8}$")
    task: Task
    description: str = ""
    file: FileName
    sha256: Sha256
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    lengths: str | None = None
    constants: dict[str, Constant] = Field(default_factory=dict)
    states: tuple[State, ...] = ()
    streamable: bool = False
    arithmetic: Arithmetic = "float32"
    text: Text | None = None
    forecast: Forecast | None = None
    networks: tuple[Network, ...] = ()
    provenance: Provenance | None = None

    @cached_property
    def sequence(self) -> Tensor:
        """The input that carries the steps of the rows; without a time axis the graph takes one step a run."""
        return next((tensor for tensor in self.inputs if tensor.has_time), self.inputs[0])

    @cached_property
    def others(self) -> tuple[Tensor, ...]:
        """The inputs beside the sequence; their time axis, where they have one, is as long as its."""
        return tuple(tensor for tensor in self.inputs if tensor is not self.sequence)

    @cached_property
    def features(self) -> int | None:
        """Values per step of the sequence, in C order; None where a step is one number or one id."""
        return math.prod(self.sequence.sizes) if self.sequence.sizes else None

    @cached_property
    def by_row(self) -> dict[str, Shape]:
        """The shapes of the inputs that are fed by row: all but the constants."""
        fed: dict[str, Shape] = {tensor.name: tensor.shape for tensor in self.inputs}
        fed |= {state.input: state.shape for state in self.states}
        return {**fed, self.lengths: ("batch",)} if self.lengths else fed

    @property
    def row_steps(self) -> tuple[int, int | None]:
        """The fewest and the most steps of a row; None where the service's settings alone limit them."""
        if self.forecast is not None:
            return self.forecast.min_history, self.forecast.max_history
        if self.text is not None and not self.streamable:
            return 1, self.text.max_length
        return 1, None if self.streamable or self.sequence.has_time else 1

    @property
    def adds_special_tokens(self) -> bool:
        """Whether texts come whole, so that the tokenizer marks where each begins and ends."""
        return not self.streamable

    @property
    def sums_to_one(self) -> bool:
        """Whether the values on the last axis of each output are probabilities, which sum to one."""
        return TASKS[self.task].sums_to_one

    @cached_property
    def finite(self) -> bool:
        """Whether NaN and infinity are refused, coming in and going out; else all values pass as they are."""
        return TASKS[self.task].finite

    @cached_property
    def state_bytes(self) -> int:
        return sum(state.row_bytes for state in self.states)

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that stand for this name, version, weights, and all that gives a state its meaning."""
        members = {"name", "version", "sha256", "inputs", "lengths", "constants", "states", "text"}
        return hashlib.sha256(self.model_dump_json(include=members).encode()).digest()[:16]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_kinds()
        self._check_tensors()
        if self.streamable:
            self._check_streamable()
        TASKS[self.task].check(self)
        if self.streamable != TASKS[self.task].streamable:
            able = " and ".join(repr(name) for name, rules in TASKS.items() if rules.streamable)
            raise FieldError("streamable", f"must be true for task {able}, and for no other: only steps carry states")
        return self

    def _check_kinds(self) -> None:
        rules = TASKS[self.task]
        if len(self.inputs) > 1 and not rules.several_inputs:
            able = " and ".join(repr(name) for name, others in TASKS.items() if others.several_inputs)
            message = f"are {len(self.inputs)}; task {self.task!r} takes one, and {able} several"
            raise FieldError("inputs", message)
        for field, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            for index, tensor in enumerate(tensors):
                if tensor.dtype not in rules.dtypes:
                    message = f"is {tensor.dtype}; the tensors of task {self.task!r} are {_any_of(rules.dtypes)}"
                    raise FieldError(f"{field}[{index}].dtype", message)

    def _check_tensors(self) -> None:
        shape = list(self.sequence.shape)
        if self.text is not None and self.features not in (None, 1):
            raise FieldError("inputs[0].shape", f"is {shape}; with 'text' a step is one id, so there are no features")
        if self.text is not None and self.sequence.dtype in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"is {self.sequence.dtype}; with 'text' it is int32 or int64 ids")
        given = [*(tensor.name for tensor in self.inputs), *self.constants, *(s.input for s in self.states)]
        given += [self.lengths] if self.lengths else []
        answers, carried = [t.name for t in self.outputs], [s.output for s in self.states]  # a state may be an answer
        for field, names in (("inputs", given), ("outputs", answers), ("states", carried)):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise FieldError(field, f"{', '.join(twice)} is named more than once")

    def _check_streamable(self) -> None:
        if not self.states:
            raise FieldError("states", "a streamable model must name the states that a client carries")
        if any(network.bidirectional for network in self.networks):
            raise FieldError(
                "streamable",
                "must be false for a bidirectional network: its reverse direction starts at the end of the "
                "sequence, which a stream does not have yet; export one direction only",
            )


@dataclass(frozen=True)
class TaskRules:
    """What a task demands of its manifests beside what every manifest must hold.

    `check` raises FieldError for a manifest that breaks a rule of the task's own. `dtypes` are those that inputs and
    outputs may have. `streamable`, `sums_to_one` and `finite` are facts of every manifest of the task.
    """

    check: Callable[[Manifest], None]
    streamable: bool = False
    sums_to_one: bool = False
    finite: bool = True
    several_inputs: bool = False
    dtypes: tuple[str, ...] = tuple(DTYPE_BYTES)


def _check_step(manifest: Manifest) -> None:
    for index, output in enumerate(manifest.outputs):
        if output.has_time != manifest.sequence.has_time:
            rule = "hold 'time', as the input does" if manifest.sequence.has_time else "hold no 'time', as the input"
            raise FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must {rule}")


def _check_sentiment(manifest: Manifest) -> None:
    if manifest.text is None:
        raise FieldError("text", "is missing; task 'sentiment' needs a tokenizer and a max_length")
    _check_batch_first(manifest, "[batch, time]")
    (output, *more) = manifest.outputs
    if more or output.labels is None or output.dtype != "float32" or output.shape != ("batch", len(output.labels)):
        raise FieldError("outputs", "must be one float32 tensor [batch, labels] that names its labels")
    if manifest.text.polarity is not None and len(manifest.text.polarity) != len(output.labels):
        raise FieldError("text.polarity", f"has {len(manifest.text.polarity)} weights for {len(output.labels)} labels")


def _check_forecast(manifest: Manifest) -> None:
    if manifest.forecast is None:
        raise FieldError("forecast", "is missing; task 'forecast' needs history, horizon and quantiles")
    if manifest.sequence.dtype not in LARGEST_FLOAT:
        raise FieldError("inputs[0].dtype", f"must be {' or '.join(LARGEST_FLOAT)} for task 'forecast'")
    channels = manifest.sequence.sizes
    _check_batch_first(manifest, "[batch, time] or [batch, time, channels]", *channels[:1])
    mean = ("batch", manifest.forecast.horizon, *channels)
    expected = {"mean": mean, "quantiles": (*mean, len(manifest.forecast.quantiles))}
    if {output.name: output.shape for output in manifest.outputs} != expected:
        shapes = "; ".join(f"{name} {list(shape)}" for name, shape in expected.items())
        raise FieldError("outputs", f"must be {shapes}")


def _check_tensor(manifest: Manifest) -> None:
    for member in ("text", "forecast"):
        if getattr(manifest, member) is not None:
            raise FieldError(member, "must be left out; task 'tensor' takes and gives tensors as they are")
    if manifest.states:
        message = "must be left out; with task 'tensor' nothing is carried: name them among inputs and outputs"
        raise FieldError("states", message)
    if manifest.sequence.has_time:
        return
    if manifest.lengths is not None:
        raise FieldError("lengths", "must be left out; no input has a 'time' axis that could be of unequal length")
    for index, output in enumerate(manifest.outputs):
        if output.has_time:
            message = f"is {list(output.shape)}; no input has 'time', so it must hold none"
            raise FieldError(f"outputs[{index}].shape", message)


def _check_batch_first(manifest: Manifest, shapes: str, *sizes: int) -> None:
    shape = manifest.sequence.shape
    if shape != ("batch", "time", *sizes):
        raise FieldError("inputs[0].shape", f"is {list(shape)}; it must be {shapes} for task {manifest.task!r}")


TASKS: Mapping[str, TaskRules] = {
    "sentiment": TaskRules(_check_sentiment, sums_to_one=True),
    "forecast": TaskRules(_check_forecast),
    "step": TaskRules(_check_step, streamable=True),
    "tensor": TaskRules(_check_tensor, finite=False, several_inputs=True, dtypes=get_args(TensorDtype)),
}
