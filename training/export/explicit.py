"""PyTorch's own recurrent layers, wherever a network has them, as explicit ONNX nodes while it is traced for export.

`nn.RNN`, `nn.LSTM` and `nn.GRU` keep their attributes and calls; only what a call does is replaced. Packed sequences
pass through the graph padded. It knows layers and calls, not signatures, tasks or files.

Invariant: every row of a layer that was called is read to its own length: the one it was packed with, that of the
network's row where the layer reads the network's steps, or all steps where their number is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from service.errors import StartupError
from training.networks.nodes import STATE_NAMES, Cell, Weights, add_node, attributes_of, onnx_weights

CELLS: dict[type[nn.RNNBase], Cell] = {nn.RNN: "rnn", nn.LSTM: "lstm", nn.GRU: "gru"}
Size = int | torch.SymInt


class LayerError(StartupError):
    """A recurrent layer cannot become a node; the message names it, says why and what would be right."""


def cell_of(path: str, layer: nn.RNNBase) -> Cell:
    """Return which cell the layer has. Raises: LayerError when its class computes something of its own."""
    for known, cell in CELLS.items():
        if isinstance(layer, known) and type(layer).forward is known.forward:
            return cell
    raise LayerError(
        f"{path} is a {type(layer).__name__} with a forward of its own: only nn.RNN, nn.LSTM and nn.GRU, and classes "
        "that leave their forward as it is, become ONNX nodes; hold such a layer instead of deriving from it"
    )


class ExplicitLayers:
    """The recurrent layers of a network. They are changed: give those of a copy."""

    def __init__(self, layers: Iterable[tuple[str, nn.RNNBase]]) -> None:
        """Raises: LayerError."""
        self.nodes = 0  # of the last trace
        for path, layer in layers:
            cell = cell_of(path, layer)
            for number in range(layer.num_layers):
                for letter, weight in _weights(cell, layer, number).items():
                    layer.register_buffer(f"{letter}{number}", weight, persistent=False)
            layer.forward = partial(self._read, path, cell, layer)

    @contextmanager
    def reading(self, time: Size, lengths: Tensor) -> Iterator[None]:
        """Let the network's calls become nodes; its rows have `time` steps, padding included. Shapes: lengths [batch]
        int32."""
        self.nodes, self._time, self._lengths = 0, time, lengths
        with _PaddedPacking():
            yield

    def _read(
        self, path: str, cell: Cell, layer: nn.RNNBase, given: Tensor | PackedSequence, hx: Any = None
    ) -> tuple[Tensor | PackedSequence, Any]:
        steps: Tensor
        order = back = None
        if isinstance(given, PackedSequence):
            steps, lengths = given.data, given.batch_sizes.sum(0, dtype=torch.int32)
            order, back = given.sorted_indices, given.unsorted_indices
        else:
            if given.dim() != 3:
                raise LayerError(
                    f"{path} reads {self._words(list(given.shape))}: give it axes for batch, time and features"
                )
            steps = given.transpose(0, 1) if layer.batch_first else given
            lengths = self._lengths_of(path, steps)
        kinds = len(STATE_NAMES[cell])
        states = [None] * kinds if hx is None else _reordered([hx] if kinds == 1 else hx, order)
        directions = 2 if layer.bidirectional else 1
        finals: list[list[Tensor]] = []
        for number in range(layer.num_layers):
            mine = [None if state is None else state[number * directions :][:directions] for state in states]
            letters = "WRBSM" if layer.proj_size else "WRB"
            weights = {letter: layer.get_buffer(f"{letter}{number}") for letter in letters}
            add = partial(add_node, cell, attributes=attributes_of(cell, layer))
            read = partial(_projected, add) if layer.proj_size else add
            steps, final = read(steps, weights, lengths, mine)
            finals.append(final)
            self.nodes += 1
        ended = _reordered([torch.cat(kind) for kind in zip(*finals, strict=True)], back)
        carried = ended[0] if kinds == 1 else tuple(ended)
        if isinstance(given, PackedSequence):
            return given._replace(data=steps), carried
        return steps.transpose(0, 1) if layer.batch_first else steps, carried

    def _lengths_of(self, path: str, steps: Tensor) -> Tensor:
        time, batch = steps.shape[:2]
        if isinstance(time, int):
            return steps.new_full((batch,), time, dtype=torch.int32)
        if statically_known_true(time == self._time) and statically_known_true(batch == self._lengths.shape[0]):
            return self._lengths
        raise LayerError(
            f"{path} reads {self._words(batch)} rows of {self._words(time)} steps, and the network's input has batch "
            "rows of time: how long each of its rows is cannot be known; check batch_first, or pack what it reads with "
            "pack_padded_sequence"
        )

    def _words(self, sizes: Size | Sequence[Size]) -> str:
        """Write sizes with the words batch and time for the symbols that they have while tracing."""
        symbols = {str(self._time): "time", str(self._lengths.shape[0]): "batch"}
        return re.sub(r"\bs\d+\b", lambda match: symbols.get(match[0], match[0]), str(sizes))


class _PaddedPacking(TorchFunctionMode):
    """Let a packed sequence hold its steps padded and time first, and which rows each time has instead of how many.

    The shapes of these tensors, unlike those of packed ones, do not depend on the lengths.

    Shapes: data [time, batch, ...]; batch_sizes [time, batch] bool.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch._VF._pack_padded_sequence:
            return self._pack(*args)
        if func is torch._VF._pad_packed_sequence:
            return self._pad(*args)
        return func(*args, **(kwargs or {}))

    def _pack(self, padded: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        steps = padded.transpose(0, 1) if batch_first else padded
        return steps, torch.arange(steps.shape[0])[:, None] < lengths

    def _pad(self, steps: Tensor, there: Tensor, batch_first: bool, value: float, time: Size) -> tuple[Tensor, Tensor]:
        if not statically_known_true(time == steps.shape[0]):
            raise LayerError(
                f"pad_packed_sequence is given total_length={time}, and what was packed is {steps.shape[0]} steps "
                "wide: leave total_length out, or give the width of what was packed"
            )
        cells = there.reshape(*there.shape, *[1] * (steps.dim() - 2))
        padded = torch.where(cells, steps, value)
        return padded.transpose(0, 1) if batch_first else padded, there.sum(0)


def _weights(cell: Cell, layer: nn.RNNBase, number: int) -> Weights:
    """Return the weights of one layer's node.

    ONNX has no projected LSTM. Its node is an LSTM without projection, whose recurrent matrix is the product of both
    matrices; M projects the outputs behind the node. The initial h exists only in projected form, so it comes with the
    input of each direction's first step, and S stands in place of W.

    Source: h[t] = M m[t] and R h[t] = (R M) m[t], in torch.nn.LSTM's description of `proj_size`.
    """
    weights = onnx_weights(cell, layer, number)
    if not layer.proj_size:
        return weights
    ends = ("", "_reverse") if layer.bidirectional else ("",)
    projections = torch.stack([getattr(layer, f"weight_hr_l{number}{end}").detach() for end in ends])
    blocks = torch.block_diag(*weights["R"])  # type: ignore[no-untyped-call]
    by_direction = blocks.view(len(ends), -1, len(ends) * layer.proj_size)  # each in the columns of its own h
    return {
        **weights,
        "R": (weights["R"].double() @ projections.double()).to(weights["R"].dtype),
        "S": torch.cat([weights["W"], by_direction], 2),
        "M": projections.transpose(1, 2).contiguous(),
    }


def _projected(
    add: Callable[..., tuple[Tensor, list[Tensor]]],
    steps: Tensor,
    weights: Weights,
    lengths: Tensor,
    states: list[Tensor | None],
) -> tuple[Tensor, list[Tensor]]:
    h, c = states
    if h is not None:
        at = torch.arange(steps.shape[0])[:, None]
        begins = [(at == 0).expand(-1, steps.shape[1]), at == lengths - 1][: len(h)]
        given = [torch.where(begin[..., None], start, 0.0) for begin, start in zip(begins, h, strict=True)]
        steps, weights = torch.cat([steps, *given], 2), {**weights, "W": weights["S"]}
    y, (m, c) = add(steps, weights, lengths, [None, c])
    by_direction = zip(y.chunk(len(weights["M"]), 2), weights["M"], strict=True)
    return torch.cat([part @ projection for part, projection in by_direction], 2), [m @ weights["M"], c]


def _reordered(states: Iterable[Tensor], order: Tensor | None) -> list[Tensor]:
    return [state if order is None else state.index_select(1, order) for state in states]
