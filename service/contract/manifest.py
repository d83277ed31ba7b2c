"""The manifest: everything that a model version declares before Baton serves it.

The service owns this module; training validates what it publishes with the same code. It knows pydantic and the
standard library only: `service.model.graph_check` checks the graph against the manifest. Invariant: a `Manifest` that
exists is consistent in itself.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from service.contract.provenance import Network, Provenance, Sha256
from service.contract.tensors import LARGEST_FLOAT, FieldError, Part, Shape, Size, State, Tensor

Task = Literal["sentiment", "forecast", "step"]
Arithmetic = Literal["float32", "float16", "int8"]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Quantile = Annotated[float, Field(gt=0, lt=1)]
Number = float | int


def _number_or_numbers(value: object) -> object:
    given = value if isinstance(value, list | tuple) else [value]
    real = [isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < math.inf for one in given]
    if not given or not all(real):
        raise ValueError("must be one finite number, or a list of finite numbers")
    return value


Constant = Annotated[Number | tuple[Number, ...], BeforeValidator(_number_or_numbers)]


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
    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=1)
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
        """The input that carries the rows; without a time axis the graph takes one step a run."""
        return self.inputs[0]

    @cached_property
    def features(self) -> int | None:
        """Values per step of the input, in C order; None where a step is one number or one id."""
        return math.prod(self.sequence.sizes) if self.sequence.sizes else None

    @cached_property
    def by_row(self) -> dict[str, Shape]:
        """The shapes of the inputs that are fed by row: all but the constants."""
        fed: dict[str, Shape] = {self.sequence.name: self.sequence.shape, **{s.input: s.shape for s in self.states}}
        return {**fed, self.lengths: ("batch",)} if self.lengths else fed

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
        self._check_tensors()
        if self.streamable:
            self._check_streamable()
        getattr(self, f"_check_{self.task}")()
        if self.streamable != (self.task == "step"):
            raise FieldError("streamable", "must be true for task 'step', and for no other: only steps carry states")
        return self

    def _check_tensors(self) -> None:
        shape = list(self.sequence.shape)
        if self.text is not None and self.features not in (None, 1):
            raise FieldError("inputs[0].shape", f"is {shape}; with 'text' a step is one id, so there are no features")
        if self.text is not None and self.sequence.dtype in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"is {self.sequence.dtype}; with 'text' it is int32 or int64 ids")
        given = [self.sequence.name, *self.constants, *(s.input for s in self.states)]
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

    def _check_step(self) -> None:
        for index, output in enumerate(self.outputs):
            if output.has_time != self.sequence.has_time:
                rule = "hold 'time', as the input does" if self.sequence.has_time else "hold no 'time', as the input"
                raise FieldError(f"outputs[{index}].shape", f"is {list(output.shape)}; it must {rule}")

    def _check_sentiment(self) -> None:
        if self.text is None:
            raise FieldError("text", "is missing; task 'sentiment' needs a tokenizer and a max_length")
        self._check_batch_first()
        (output, *more) = self.outputs
        if more or output.labels is None or output.dtype != "float32" or output.shape != ("batch", len(output.labels)):
            raise FieldError("outputs", "must be one float32 tensor [batch, labels] that names its labels")
        if self.text.polarity is not None and len(self.text.polarity) != len(output.labels):
            raise FieldError("text.polarity", f"has {len(self.text.polarity)} weights for {len(output.labels)} labels")

    def _check_forecast(self) -> None:
        if self.forecast is None:
            raise FieldError("forecast", "is missing; task 'forecast' needs history, horizon and quantiles")
        if self.sequence.dtype not in LARGEST_FLOAT:
            raise FieldError("inputs[0].dtype", f"must be {' or '.join(LARGEST_FLOAT)} for task 'forecast'")
        channels = self.sequence.sizes
        self._check_batch_first(*channels)
        mean = ("batch", self.forecast.horizon, *channels)
        expected = {"mean": mean, "quantiles": (*mean, len(self.forecast.quantiles))}
        if {output.name: output.shape for output in self.outputs} != expected:
            shapes = "; ".join(f"{name} {list(shape)}" for name, shape in expected.items())
            raise FieldError("outputs", f"must be {shapes}")

    def _check_batch_first(self, *sizes: int) -> None:
        if self.sequence.shape != ("batch", "time", *sizes) or len(sizes) > 1:
            due = "[batch, time] or [batch, time, channels]" if self.task == "forecast" else "[batch, time]"
            shape = list(self.sequence.shape)
            raise FieldError("inputs[0].shape", f"is {shape}; it must be {due} for task {self.task!r}")
