"""The one builder of recurrent stacks: RNN, LSTM or GRU, any number of layers, one or two directions.

Under PyTorch a stack runs packed sequences, or the padded tensor where no row is shorter than it is wide; inside
`torch.onnx.export` each layer becomes one ONNX `RNN`, `LSTM` or `GRU` node with constant weights and `sequence_lens`.
It knows neither tasks nor data.

Invariant: a row's outputs and final states depend on that row's own steps and initial states alone, not on padding, not
on neighbours, and are the same under PyTorch and ONNX up to float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from service.contract import Network
from service.tensors import Shape, State

Cell = Literal["rnn", "lstm", "gru"]
Nonlinearity = Literal["tanh", "relu"]

Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]

OPSET = 22
# Where each ONNX gate stands among PyTorch's: LSTM i,o,f,c from i,f,g,o; GRU z,r,h from r,z,n.
# Source: the ONNX operators LSTM-22 and GRU-22; torch.nn.LSTM and torch.nn.GRU.
GATES: dict[Cell, tuple[int, ...]] = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
Carried = TypeVar("Carried")
STATE_NAMES: dict[Cell, str] = {"rnn": "h", "lstm": "hc", "gru": "h"}


class Recurrent(nn.Module):
    """A stack of recurrent layers whose states go in and come out.

    States are one flat tuple: for each layer h (and c for an LSTM), each [directions, batch, hidden].
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        nonlinearity: Nonlinearity = "tanh",
    ) -> None:
        """Build the stack; `dropout` acts between layers, `nonlinearity` is an RNN's alone."""
        super().__init__()
        self.cell, self.nonlinearity = cell, nonlinearity
        self.hidden_size, self.bidirectional = hidden_size, bidirectional
        self.directions = 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        widths = [input_size] + [hidden_size * self.directions] * (layers - 1)
        self.layers = nn.ModuleList(self._layer(width) for width in widths)

    def _layer(self, width: int) -> nn.RNNBase:
        shared = {"batch_first": True, "bidirectional": self.bidirectional}
        if self.cell == "rnn":
            return nn.RNN(width, self.hidden_size, nonlinearity=self.nonlinearity, **shared)
        if self.cell == "lstm":
            return nn.LSTM(width, self.hidden_size, **shared)
        return nn.GRU(width, self.hidden_size, **shared)

    @property
    def states(self) -> tuple[State, ...]:
        """The states in the order of `forward`, as a manifest declares them: h0, c0, h1, ... to h0_out, c0_out, ..."""
        shape: Shape = (self.directions, "batch", self.hidden_size)
        return tuple(
            State(input=f"{kind}{layer}", output=f"{kind}{layer}_out", dtype="float32", shape=shape)
            for layer in range(len(self.layers))
            for kind in STATE_NAMES[self.cell]
        )

    @property
    def network(self) -> Network:
        """The stack as the manifest's facts."""
        return Network(
            cell=self.cell, layers=len(self.layers), hidden=self.hidden_size, bidirectional=self.bidirectional
        )

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions. Shapes: each [directions, batch, hidden]."""
        like = next(self.parameters())
        return tuple(like.new_zeros(self.directions, batch, self.hidden_size) for _ in self.states)

    def forward(
        self, x: Tensor, lengths: Tensor, states: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read each row up to its own length, the reverse direction from there back.

        Shapes: x [batch, time, features] float32; lengths [batch] int32, each at least 1; states as in `states`, None
        for zeros; returns outputs [batch, time, directions * hidden], zero beyond each length, and the states after
        each row's own last step.
        """
        if torch.onnx.is_in_onnx_export():
            return self._forward_onnx(x, lengths, states)
        kinds = len(STATE_NAMES[self.cell])
        carried = _by_layer(states or self.zero_states(len(x)), kinds)
        read = _pack(x, lengths)
        finals: list[Tensor] = []
        for number, (layer, mine) in enumerate(zip(self.layers, carried, strict=True)):
            if number:
                read = _each(self.dropout, read)
            read, final = layer(read, mine if kinds > 1 else mine[0])
            finals += final if kinds > 1 else [final]
        dtype = next(self.parameters()).dtype  # under autocast some layers give bfloat16, which is too coarse to sum
        return _pad(read, x.shape[1]).to(dtype), tuple(final.to(dtype) for final in finals)

    def prepare_export(self) -> None:
        """Lay the weights out as ONNX has them, in buffers, so that the graph holds them as plain initializers."""
        for number, layer in enumerate(self.layers):
            for name, weight in zip("WRB", _onnx_weights(self.cell, cast(nn.RNNBase, layer)), strict=True):
                self.register_buffer(f"{name}{number}", weight, persistent=False)

    def _forward_onnx(
        self, x: Tensor, lengths: Tensor, states: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        batch, time = x.shape[0], x.shape[1]
        kinds = len(STATE_NAMES[self.cell])
        carried = _by_layer(states or (None,) * len(self.states), kinds)
        steps = x.transpose(0, 1)  # [time, batch, features]: ONNX Runtime has no batch-first layout on the CPU
        finals: list[Tensor] = []
        for number, mine in enumerate(carried):
            weights = [self.get_buffer(f"{name}{number}") for name in "WRB"]
            state_shape = (self.directions, batch, self.hidden_size)
            y, *final = torch.onnx.ops.symbolic_multi_out(
                self.cell.upper(),
                (steps, *weights, lengths, *mine),
                self._attributes(),
                dtypes=(x.dtype,) * (1 + kinds),
                shapes=((time, self.directions, batch, self.hidden_size), *(state_shape,) * kinds),
                version=OPSET,
            )
            finals += final
            steps = y.transpose(1, 2).reshape(time, batch, self.directions * self.hidden_size)
        return steps.transpose(0, 1), tuple(finals)

    def _attributes(self) -> Attributes:
        attributes: Attributes = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.bidirectional else "forward",
        }
        if self.cell == "gru":
            attributes["linear_before_reset"] = 1
        if self.cell == "rnn":
            attributes["activations"] = [self.nonlinearity.capitalize()] * self.directions
        return attributes


def _pack(x: Tensor, lengths: Tensor) -> Tensor | PackedSequence:
    """Pack rows, unless all are as long as `x` is wide: PyTorch computes a full tensor up to three times as fast."""
    if bool((lengths == x.shape[1]).all()):
        return x
    return pack_padded_sequence(x, lengths.cpu().long(), batch_first=True, enforce_sorted=False)


def _pad(read: Tensor | PackedSequence, time: int) -> Tensor:
    if isinstance(read, PackedSequence):
        read, _ = pad_packed_sequence(read, batch_first=True, total_length=time)
    return read


def _each(change: Callable[[Tensor], Tensor], read: Tensor | PackedSequence) -> Tensor | PackedSequence:
    if isinstance(read, PackedSequence):
        return read._replace(data=change(read.data))
    return change(read)


def _by_layer(states: Sequence[Carried], kinds: int) -> list[Sequence[Carried]]:
    return [states[start : start + kinds] for start in range(0, len(states), kinds)]


def _onnx_weights(cell: Cell, layer: nn.RNNBase) -> tuple[Tensor, Tensor, Tensor]:
    """Return W [directions, gates * hidden, inputs], R [.., gates * hidden, hidden] and B [.., 2 * gates * hidden]."""
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)

    def stacked(kind: str) -> Tensor:
        weights = [layer.get_parameter(f"{kind}_l0{suffix}").detach() for suffix in suffixes]
        by_gate = [torch.cat([weight.chunk(len(GATES[cell]))[gate] for gate in GATES[cell]]) for weight in weights]
        return torch.stack(by_gate)

    return stacked("weight_ih"), stacked("weight_hh"), torch.cat([stacked("bias_ih"), stacked("bias_hh")], 1)
