"""The members of a manifest, and the facts that follow from them whatever the task.

It knows pydantic and the standard library only, not what tasks demand: `service.contract.manifest` does. Invariant: the
facts are derived, and never declared.
"""

from __future__ import annotations

import hashlib
import math
import re
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from service.contract.parts import AnyFeedback, Constant, FileName, Forecast, Signal, Start, Text
from service.contract.provenance import Network, Provenance, Sha256
from service.contract.tensors import Part, Shape, State, Tensor

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
RECENT, RECENT_IDS = "recent_ids", 8  # enough for a character of four bytes, each an id, and what stands before it
Arithmetic = Literal["float32", "float16", "int8"]


class Members(Part):
    """The members of a manifest, and what follows from them whatever the task."""

    schema_version: Literal[1]
    name: str = Field(pattern=f"^{MODEL_NAME.pattern}$")
    version: str = Field(pattern=r"^[1-9][0-9]{0,8}$")
    task: str
    description: str = ""
    file: FileName
    sha256: Sha256
    inputs: tuple[Tensor, ...] = Field(min_length=1)
    outputs: tuple[Tensor, ...] = Field(min_length=1)
    lengths: str | None = None
    memory_lengths: str | None = None
    constants: dict[str, Constant] = Field(default_factory=dict)
    states: tuple[State, ...] = ()
    streamable: bool = False
    arithmetic: Arithmetic = "float32"
    text: Text | None = None
    forecast: Forecast | None = None
    signal: Signal | None = None
    feedback: AnyFeedback | None = None
    start: Start | None = None
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
        return fed | {name: ("batch",) for name in (self.lengths, self.memory_lengths) if name}

    @property
    def row_steps(self) -> tuple[int, int | None]:
        """The fewest and the most steps of a row; None where the service's settings alone limit them."""
        if self.forecast is not None:
            return self.forecast.min_history, self.forecast.max_history
        if self.text is not None and not self.streamable:
            return 1, self.text.max_length
        return 1, None if self.streamable or self.sequence.has_time else 1

    @cached_property
    def drawn_from(self) -> State | None:
        """The output of a session's last step, which the next is drawn from, as a state."""
        if self.feedback is None:
            return None
        (output,) = (tensor for tensor in self.outputs if tensor.name == self.feedback.output)
        return State.model_validate(
            {"input": output.name, "output": output.name, "dtype": output.dtype, "shape": ("batch", *output.sizes)}
        )

    @cached_property
    def recent(self) -> State | None:
        """A session's last ids, which decide how the next is written, as a state; -1 where there is none."""
        if self.feedback is None or self.text is None:
            return None
        return State(input=RECENT, output=RECENT, dtype="int64", shape=("batch", RECENT_IDS), start=-1)

    @cached_property
    def carried(self) -> tuple[State, ...]:
        """What a session carries from step to step: the states, the output that the next step is drawn from, and the
        last ids of a text that is written."""
        return (*self.states, *(more for more in (self.drawn_from, self.recent) if more is not None))

    @cached_property
    def state_bytes(self) -> int:
        """What every session carries; where states are ragged, `memory_bytes` more for each entry of its condition."""
        return sum(state.row_bytes for state in self.carried if not state.ragged)

    @cached_property
    def memory_bytes(self) -> int:
        return sum(state.row_bytes for state in self.carried if state.ragged)

    @cached_property
    def attention(self) -> str | None:
        """The output that says how much each step attends to each entry of the condition, if there is one."""
        weights = [t.name for t in self.outputs if t.has_memory and t.has_time and not t.sizes]
        return weights[0] if len(weights) == 1 else None

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that stand for this name, version, weights, and all that gives a state its meaning."""
        members = {"name", "version", "sha256", "inputs", "lengths", "constants", "states", "text"}
        spared: dict[str, Any] = {}  # so that what a manifest does not have changes no token that was made before
        members |= {part for part in ("feedback", "start", "memory_lengths") if getattr(self, part) is not None}
        if self.text is not None and self.text.characters is None:
            spared["text"] = {"characters"}
        return hashlib.sha256(self.model_dump_json(include=members, exclude=spared).encode()).digest()[:16]
