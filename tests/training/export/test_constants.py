"""Constants of a graph: vectors that are its inputs, so that they change without a new graph."""

from __future__ import annotations

import dataclasses

import echo
import onnx
import torch
from torch import Tensor

from training.export import parity
from training.export.graph import Servable, export
from training.networks.recurrent import Recurrent

SCALES = (1.0, -2.0, 0.5)


class Scaled(echo.Stack):
    """A stack whose outputs are multiplied by the constant that follows the lengths."""

    def forward(self, x: Tensor, lengths: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        y, *carried = super().forward(x, lengths, *more[1:])
        return y * more[0], *carried


def scaled() -> Servable:
    torch.manual_seed(0)
    recurrent = Recurrent("gru", 1, len(SCALES))
    plain = echo.servable_stack(recurrent, 1)
    return dataclasses.replace(plain, network=Scaled(recurrent), constants={"scales": SCALES})


def test_constants_are_inputs_between_lengths_and_states() -> None:
    servable = scaled()
    graph = onnx.load_from_string(export(servable)).graph
    assert [node.name for node in graph.input] == servable.input_names == ["x", "lengths", "scales", "h0"]
    assert [axis.dim_value for axis in graph.input[2].type.tensor_type.shape.dim] == [len(SCALES)]


def test_graph_with_constants_keeps_parity_whatever_their_values() -> None:
    """The graph holds the input, not the values that it was exported with."""
    servable = scaled()
    graph = export(servable)
    for values in (SCALES, (0.0, 3.0, 1.0)):
        parity.measure(dataclasses.replace(servable, constants={"scales": values}), graph).require()
