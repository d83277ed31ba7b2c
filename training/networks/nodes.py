"""A recurrent layer as one ONNX node: its weights as ONNX lays them out, and the node in the traced graph.

It knows PyTorch's layers and ONNX's operators, not stacks, networks or files. Invariant: a node that `add_node` makes
stops each row at its own length, begins at the states that it is given, and gives those after each row's last step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from training.networks.cells import PeepholeLSTM, ResetBeforeGRU, UnrolledLayer

Cell = Literal["rnn", "lstm", "gru"]
Weights = Mapping[str, Tensor]  # by ONNX's letters: W, R, B, and an LSTM's P

Attributes = dict[str, int | float | str | bool | Sequence[int] | Sequence[float] | Sequence[str] | Sequence[bool]]

OPSET = 22
# Where each ONNX gate stands among PyTorch's: LSTM i,o,f,c from i,f,g,o; GRU z,r,h from r,z,n.
# Source: the ONNX operators LSTM-22 and GRU-22; torch.nn.LSTM and torch.nn.GRU.
GATES: dict[Cell, tuple[int, ...]] = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
STATE_NAMES: dict[Cell, str] = {"rnn": "h", "lstm": "hc", "gru": "h"}


def onnx_weights(cell: Cell, layer: nn.RNNBase | UnrolledLayer, number: int = 0) -> dict[str, Tensor]:
    """Return the weights of the layer; of a stack in one PyTorch module, those of the layer with that number.

    Shapes: W [directions, gates * hidden, inputs], R [.., gates * hidden, hidden], B [.., 2 * gates * hidden], and P
    [.., 3 * hidden] of a layer with peepholes.
    """
    suffixes = (f"_l{number}", f"_l{number}_reverse") if layer.bidirectional else (f"_l{number}",)

    def stacked(kind: str, gates: Sequence[int]) -> Tensor:
        # By attribute: a parametrized weight is no parameter.
        weights = [getattr(layer, kind + suffix).detach() for suffix in suffixes]
        return torch.stack([torch.cat([weight.chunk(len(gates))[gate] for gate in gates]) for weight in weights])

    weights = {"W": stacked("weight_ih", GATES[cell]), "R": stacked("weight_hh", GATES[cell])}
    if isinstance(layer, UnrolledLayer) or layer.bias:
        weights["B"] = torch.cat([stacked(kind, GATES[cell]) for kind in ("bias_ih", "bias_hh")], 1)
    else:
        weights["B"] = torch.zeros(len(suffixes), 2 * weights["W"].shape[1])
    if isinstance(layer, PeepholeLSTM):
        weights["P"] = stacked("weight_peephole", range(3))
    return weights


def attributes_of(cell: Cell, layer: nn.RNNBase | UnrolledLayer) -> Attributes:
    """Return what the node says of itself, but for its size."""
    directions = 2 if layer.bidirectional else 1
    attributes: Attributes = {"direction": "bidirectional" if layer.bidirectional else "forward"}
    if cell == "gru":
        attributes["linear_before_reset"] = int(not isinstance(layer, ResetBeforeGRU))
    if isinstance(layer, nn.RNN):
        attributes["activations"] = [layer.nonlinearity.capitalize()] * directions
    return attributes


def add_node(
    cell: Cell,
    steps: Tensor,
    weights: Weights,
    lengths: Tensor,
    states: Sequence[Tensor | None],
    attributes: Attributes,
) -> tuple[Tensor, list[Tensor]]:
    """Put one node into the graph that is being traced; states left out are zeros.

    Shapes: steps [time, batch, features], for ONNX Runtime has no batch-first layout on the CPU; lengths [batch] int32;
    states each [directions, batch, hidden]; returns outputs [time, batch, directions * hidden] and the final states.
    """
    time, batch = steps.shape[:2]
    directions, _, hidden = weights["R"].shape
    peepholes = [weights["P"]] if "P" in weights else []
    y, *finals = torch.onnx.ops.symbolic_multi_out(
        cell.upper(),
        (steps, weights["W"], weights["R"], weights["B"], lengths, *states, *peepholes),
        {"hidden_size": hidden, **attributes},
        dtypes=(steps.dtype,) * (1 + len(states)),
        shapes=((time, directions, batch, hidden), *((directions, batch, hidden),) * len(states)),
        version=OPSET,
    )
    return y.transpose(1, 2).reshape(time, batch, directions * hidden), finals
