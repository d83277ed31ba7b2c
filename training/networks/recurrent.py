"""The one builder of recurrent stacks: the whole family, any number of layers, one or two directions.

Under PyTorch a stack runs packed sequences, or the padded tensor where no row is shorter than it is wide; inside
`torch.onnx.export` each layer becomes one ONNX `RNN`, `LSTM` or `GRU` node with constant weights and `sequence_lens`.
It knows neither tasks nor data.

Invariant: a row's outputs and final states depend on that row's own steps and initial states alone, not on padding, not
on neighbours, and are the same under PyTorch and ONNX up to float rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from service.contract.provenance import Network, Variant
from service.contract.tensors import Shape, State
from service.errors import StartupError
from training.networks.cells import PeepholeLSTM, ResetBeforeGRU, Sequences, UnrolledLayer
from training.networks.nodes import STATE_NAMES, Cell, add_node, attributes_of, onnx_weights

Nonlinearity = Literal["tanh", "relu"]
Carried = TypeVar("Carried")


class NetworkError(StartupError):
    """An option does not go with the cell; the message names both."""


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
        *,
        peepholes: bool = False,
        linear_before_reset: bool = True,
        residual: bool = False,
        learned_start: bool = False,
    ) -> None:
        """Build the stack.

        `dropout` acts between layers. `residual` adds each layer's input, before dropout, to its output. The
        first layer is left out: its input may have another width, and may hold anything in the padding.
        `learned_start` makes the states of new sessions parameters, zeros at first. `nonlinearity` is for an RNN alone,
        `peepholes` for an LSTM, `linear_before_reset` for a GRU: whether its reset gate acts after the recurrent
        matrix, as in PyTorch, or before it.

        Raises: NetworkError when an option does not go with the cell.
        """
        super().__init__()
        for option, owner, used in (
            ("nonlinearity", "rnn", nonlinearity != "tanh"),
            ("peepholes", "lstm", peepholes),
            ("linear_before_reset", "gru", not linear_before_reset),
        ):
            if used and cell != owner:
                raise NetworkError(f"{option} is an option of the cell {owner!r}, and this one is {cell!r}")
        self.cell, self.nonlinearity = cell, nonlinearity
        self.peepholes, self.linear_before_reset, self.residual = peepholes, linear_before_reset, residual
        self.hidden_size, self.bidirectional = hidden_size, bidirectional
        self.directions = 2 if bidirectional else 1
        self.dropout = nn.Dropout(dropout)
        widths = [input_size] + [hidden_size * self.directions] * (layers - 1)
        self.layers = nn.ModuleList(self._layer(width) for width in widths)
        count = layers * len(STATE_NAMES[cell]) if learned_start else 0
        self.starts = nn.ParameterList(torch.zeros(self.directions, 1, hidden_size) for _ in range(count))

    def _layer(self, width: int) -> nn.RNNBase | UnrolledLayer:
        if self.peepholes:
            return PeepholeLSTM(width, self.hidden_size, self.bidirectional)
        if not self.linear_before_reset:
            return ResetBeforeGRU(width, self.hidden_size, self.bidirectional)
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
        names = [f"{kind}{layer}" for layer in range(len(self.layers)) for kind in STATE_NAMES[self.cell]]
        starts = [start[:, 0].tolist() for start in self.starts] or [0] * len(names)
        return tuple(
            State(input=name, output=f"{name}_out", dtype="float32", shape=shape, start=start)
            for name, start in zip(names, starts, strict=True)
        )

    @property
    def network(self) -> Network:
        """The stack as the manifest's facts."""
        variants: dict[Variant, bool] = {
            "relu": self.nonlinearity == "relu",
            "peepholes": self.peepholes,
            "reset_before": not self.linear_before_reset,
            "residual": self.residual,
            "learned_start": len(self.starts) > 0,
        }
        return Network(
            cell=self.cell,
            layers=len(self.layers),
            hidden=self.hidden_size,
            bidirectional=self.bidirectional,
            variants=tuple(name for name, chosen in variants.items() if chosen),
        )

    def zero_states(self, batch: int) -> tuple[Tensor, ...]:
        """Return the states of new sessions: zeros, or what was learned. Shapes: each [directions, batch, hidden]."""
        if len(self.starts):
            return tuple(start.expand(-1, batch, -1).contiguous() for start in self.starts)
        like = next(self.parameters())
        count = len(self.layers) * len(STATE_NAMES[self.cell])
        return tuple(like.new_zeros(self.directions, batch, self.hidden_size) for _ in range(count))

    def forward(
        self, x: Tensor, lengths: Tensor, states: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Read each row up to its own length, the reverse direction from there back.

        Shapes: x [batch, time, features] float32; lengths [batch] int32, each at least 1; states as in `states`, None
        for those of new sessions; returns outputs [batch, time, directions * hidden], zero beyond each length, and the
        states after each row's own last step.
        """
        if torch.onnx.is_in_onnx_export():
            return self._forward_onnx(x, lengths, states)
        kinds = len(STATE_NAMES[self.cell])
        carried = _by_layer(states or self.zero_states(len(x)), kinds)
        read = _pack(x, lengths)
        finals: list[Tensor] = []
        for number, (layer, mine) in enumerate(zip(self.layers, carried, strict=True)):
            given = read
            read, final = layer(_each(self.dropout, given) if number else given, mine if kinds > 1 else mine[0])
            if number and self.residual:
                read = _each(torch.add, read, given)
            finals += final if kinds > 1 else [final]
        dtype = next(self.parameters()).dtype  # under autocast some layers give bfloat16, which is too coarse to sum
        return _pad(read, x.shape[1]).to(dtype), tuple(final.to(dtype) for final in finals)

    def prepare_export(self) -> None:
        """Lay the weights out as ONNX has them, in buffers, so that the graph holds them as plain initializers."""
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, nn.RNNBase | UnrolledLayer)
            for name, weight in onnx_weights(self.cell, layer).items():
                self.register_buffer(f"{name}{number}", weight, persistent=False)

    def _forward_onnx(
        self, x: Tensor, lengths: Tensor, states: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        kinds = len(STATE_NAMES[self.cell])
        left_out = (None,) * (len(self.layers) * kinds)  # which means zeros
        carried = _by_layer(states or (self.zero_states(x.shape[0]) if len(self.starts) else left_out), kinds)
        steps = x.transpose(0, 1)
        finals: list[Tensor] = []
        for number, (layer, mine) in enumerate(zip(self.layers, carried, strict=True)):
            assert isinstance(layer, nn.RNNBase | UnrolledLayer)
            weights = {name: self.get_buffer(f"{name}{number}") for name in ("WRBP" if self.peepholes else "WRB")}
            read, final = add_node(self.cell, steps, weights, lengths, mine, attributes_of(self.cell, layer))
            finals += final
            steps = read + steps if number and self.residual else read
        return steps.transpose(0, 1), tuple(finals)


def _pack(x: Tensor, lengths: Tensor) -> Sequences:
    """Pack rows, unless all are as long as `x` is wide: PyTorch computes a full tensor up to three times as fast."""
    if bool((lengths == x.shape[1]).all()):
        return x
    return pack_padded_sequence(x, lengths.cpu().long(), batch_first=True, enforce_sorted=False)


def _pad(read: Sequences, time: int) -> Tensor:
    if isinstance(read, PackedSequence):
        read, _ = pad_packed_sequence(read, batch_first=True, total_length=time)
    return read


def _each(change: Callable[..., Tensor], *reads: Sequences) -> Sequences:
    """Change every step. Either no sequence is packed, or all are, in the same way."""
    packed = reads[0]
    if isinstance(packed, PackedSequence):
        return packed._replace(data=change(*(read.data for read in reads)))
    return change(*reads)


def _by_layer(states: Sequence[Carried], kinds: int) -> list[Sequence[Carried]]:
    return [states[start : start + kinds] for start in range(0, len(states), kinds)]
