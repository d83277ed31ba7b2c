"""The cells that PyTorch lacks and ONNX has: the LSTM with peepholes, and the GRU that resets before its matrix.

Each class is one layer, in one or two directions. Its call and its parameters' names are those of PyTorch's layers: a
padded tensor or a packed sequence and the initial states in, outputs and final states out. They know neither stacks nor
graphs.

Invariant: a row's outputs and final states depend on that row's own steps and initial states alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

Sequences = Tensor | PackedSequence
States = tuple[Tensor, ...]


class UnrolledLayer(nn.Module, ABC):
    """A layer that runs its cell step by step in Python; a subclass says what one step is."""

    gates: int

    def __init__(self, width: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.hidden, self.bidirectional = hidden, bidirectional
        self.suffixes = ("", "_reverse") if bidirectional else ("",)
        for suffix in self.suffixes:
            for name, shape in self._shapes(width, hidden).items():
                self.register_parameter(f"{name}_l0{suffix}", nn.Parameter(torch.empty(shape)))
        for parameter in self.parameters():  # as PyTorch begins its recurrent layers
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def _shapes(self, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
        rows = self.gates * hidden
        return {"weight_ih": (rows, width), "weight_hh": (rows, hidden), "bias_ih": (rows,), "bias_hh": (rows,)}

    @abstractmethod
    def _step(self, given: Tensor, states: States, suffix: str) -> States:
        """Take one step of the direction that `suffix` names; the first of the new states is the step's output.

        Shapes: given, the input's share of the gates with all biases [rows, gates * hidden]; states, each
        [rows, hidden], and those returned.
        """

    def forward(self, read: Sequences, start: Tensor | States) -> tuple[Sequences, Tensor | States]:
        """Read each row to its end, the reverse direction from there back.

        Shapes: read [batch, time, width], or packed; start and returned states, one or a tuple, each
        [directions, batch, hidden]; returns outputs [batch, time, directions * hidden], or packed.
        """
        alone = isinstance(start, Tensor)
        states: States = (start,) if isinstance(start, Tensor) else start
        if isinstance(read, PackedSequence):
            if read.sorted_indices is not None:
                states = tuple(state.index_select(1, read.sorted_indices) for state in states)
            y, finals = self._directions(read.data, read.batch_sizes.tolist(), states)
            if read.unsorted_indices is not None:
                finals = tuple(final.index_select(1, read.unsorted_indices) for final in finals)
            return read._replace(data=y), finals[0] if alone else finals
        batch, time = read.shape[:2]
        y, finals = self._directions(read.transpose(0, 1).flatten(0, 1), [batch] * time, states)
        return y.view(time, batch, -1).transpose(0, 1), finals[0] if alone else finals

    def _directions(self, steps: Tensor, sizes: list[int], states: States) -> tuple[Tensor, States]:
        """Run every direction. Shapes: steps [sum of sizes, width], time by time, the longest rows first."""
        runs = [
            self._direction(steps, sizes, tuple(state[number] for state in states), suffix)
            for number, suffix in enumerate(self.suffixes)
        ]
        finals = tuple(torch.stack(kind) for kind in zip(*(final for _, final in runs), strict=True))
        return torch.cat([y for y, _ in runs], 1), finals

    def _direction(self, steps: Tensor, sizes: list[int], states: States, suffix: str) -> tuple[Tensor, States]:
        """Run one direction. Rows that do not reach a time keep their states: in the forward direction they have
        ended, in the reverse direction they have not begun."""
        biases = self.get_parameter(f"bias_ih_l0{suffix}") + self.get_parameter(f"bias_hh_l0{suffix}")
        given = functional.linear(steps, self.get_parameter(f"weight_ih_l0{suffix}"), biases)
        by_time = torch.split(given, sizes)
        outputs: list[Tensor] = []
        for at in reversed(by_time) if suffix else by_time:
            rows, batch = len(at), len(states[0])
            stepped = self._step(at, tuple(state[:rows] for state in states), suffix)
            outputs.append(stepped[0])
            if rows < batch:
                stepped = tuple(torch.cat([new, old[rows:]]) for new, old in zip(stepped, states, strict=True))
            states = stepped
        return torch.cat(outputs[::-1] if suffix else outputs), states


class PeepholeLSTM(UnrolledLayer):
    """An LSTM whose gates see the cell: the input and forget gates see the old cell, the output gate the new cell.

    `weight_peephole_l0` holds one weight for each gate and unit, in ONNX's order: input, output, forget.

    Source: Gers, Schraudolph and Schmidhuber, Learning Precise Timing with LSTM Recurrent Networks, JMLR 3 (2002); the
    ONNX operator LSTM-22.
    """

    gates = 4  # input, forget, cell, output, as in torch.nn.LSTM

    def _shapes(self, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
        return super()._shapes(width, hidden) | {"weight_peephole": (3 * hidden,)}

    def _step(self, given: Tensor, states: States, suffix: str) -> States:
        h, c = states
        see_input, see_output, see_forget = self.get_parameter(f"weight_peephole_l0{suffix}").chunk(3)
        gates = given + functional.linear(h, self.get_parameter(f"weight_hh_l0{suffix}"))
        take, keep, new, give = gates.chunk(4, 1)
        c = torch.sigmoid(keep + see_forget * c) * c + torch.sigmoid(take + see_input * c) * torch.tanh(new)
        return torch.sigmoid(give + see_output * c) * torch.tanh(c), c


class ResetBeforeGRU(UnrolledLayer):
    """A GRU whose reset gate acts on the state before the recurrent matrix does: ONNX's `linear_before_reset` = 0.

    torch.nn.GRU resets after it (= 1).

    Source: Cho et al., Learning Phrase Representations using RNN Encoder-Decoder, EMNLP 2014; the ONNX operator GRU-22.
    """

    gates = 3  # reset, update, new, as in torch.nn.GRU

    def _step(self, given: Tensor, states: States, suffix: str) -> States:
        (h,) = states
        parts = [2 * self.hidden, self.hidden]  # both gates, and the new state
        of_gates, of_new = torch.split(self.get_parameter(f"weight_hh_l0{suffix}"), parts)
        given_gates, given_new = torch.split(given, parts, 1)
        reset, update = torch.sigmoid(given_gates + functional.linear(h, of_gates)).chunk(2, 1)
        new = torch.tanh(given_new + functional.linear(reset * h, of_new))
        return (new + update * (h - new),)
