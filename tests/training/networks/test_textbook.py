"""The arithmetic of the textbooks, worked by hand, through PyTorch and through ONNX Runtime.

Every cell has one unit and reads x1 = (0.1, 0.4), then x2 = (0.7, 0.9). Weights stand as [w_x1, w_x2, w_s]: those of
the two inputs, and that of the unit's own last state s.
"""

from __future__ import annotations

from math import exp, tanh
from typing import Any

import onnxruntime
import pytest
import torch
from echo import servable_stack

from training.export.graph import export
from training.networks.recurrent import Recurrent

X = [[0.1, 0.4], [0.7, 0.9]]
TOLERANCE = 2e-7  # float32 keeps 24 bits of numbers below one
Gate = tuple[list[float], float, float]  # weights, the bias of the inputs, the bias of the state


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def states_of(gates: list[Gate], cell: Any, peepholes: list[float] | None = None, **options: Any) -> list[list[float]]:
    """The states s1 and s2, by PyTorch and by ONNX Runtime; gates in PyTorch's order, peepholes in ONNX's."""
    stack = Recurrent(cell, 2, 1, peepholes=peepholes is not None, **options)
    named = dict(stack.layers[0].named_parameters())
    columns = {
        "weight_ih_l0": [weights[:2] for weights, _, _ in gates],
        "weight_hh_l0": [weights[2:] for weights, _, _ in gates],
        "bias_ih_l0": [bias for _, bias, _ in gates],
        "bias_hh_l0": [bias for _, _, bias in gates],
        "weight_peephole_l0": peepholes,
    }
    for name, parameter in named.items():
        parameter.data.copy_(torch.tensor(columns[name]))
    servable = servable_stack(stack, 2)
    x, lengths = torch.tensor([X]), torch.tensor([2], dtype=torch.int32)
    y, _ = stack(x, lengths)
    session = onnxruntime.InferenceSession(export(servable), providers=["CPUExecutionProvider"])
    served = session.run(["y"], servable.feeds(x.numpy(), lengths.numpy()))[0]
    return [y.flatten().tolist(), served.flatten().tolist()]


def test_scalar_rnn() -> None:
    """s = tanh(W [x, s] + b) with W = [0.7, 0.3, 0.4] and b = 0.4 gives 0.5299 and 0.8791."""
    s1 = tanh(0.7 * 0.1 + 0.3 * 0.4 + 0.4 * 0 + 0.4)
    s2 = tanh(0.7 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.4)
    assert (round(s1, 4), round(s2, 4)) == (0.5299, 0.8791)
    for states in states_of([([0.7, 0.3, 0.4], 0.4, 0)], "rnn"):
        assert states == pytest.approx([s1, s2], abs=TOLERANCE)


FORGET: Gate = ([0.7, 0.3, 0.4], 0.4, 0)
INPUT: Gate = ([0.2, 0.3, 0.4], 0.2, 0)
ACTIVATION: Gate = ([0.4, 0.2, 0.1], 0.5, 0)
OUTPUT: Gate = ([0.6, 0.4, 0.2], 0.1, 0)


def test_scalar_lstm() -> None:
    """Forget, input, activation and output gates of one unit, two steps."""
    c1 = sigmoid(0.2 * 0.1 + 0.3 * 0.4 + 0.2) * tanh(0.4 * 0.1 + 0.2 * 0.4 + 0.5)  # nothing to forget yet
    s1 = sigmoid(0.6 * 0.1 + 0.4 * 0.4 + 0.1) * tanh(c1)

    forget = sigmoid(0.7 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.4)
    take = sigmoid(0.2 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.2)
    new = tanh(0.4 * 0.7 + 0.2 * 0.9 + 0.1 * s1 + 0.5)
    give = sigmoid(0.6 * 0.7 + 0.4 * 0.9 + 0.2 * s1 + 0.1)
    c2 = forget * c1 + take * new
    s2 = give * tanh(c2)

    for states in states_of([INPUT, FORGET, ACTIVATION, OUTPUT], "lstm"):
        assert states == pytest.approx([s1, s2], abs=TOLERANCE)


def test_scalar_lstm_with_peepholes() -> None:
    """Input and forget gate see the old cell with weights 0.3 and 0.6, the output gate the new one with 0.5."""
    c1 = sigmoid(0.2 * 0.1 + 0.3 * 0.4 + 0.2) * tanh(0.4 * 0.1 + 0.2 * 0.4 + 0.5)  # the old cell is zero
    s1 = sigmoid(0.6 * 0.1 + 0.4 * 0.4 + 0.1 + 0.5 * c1) * tanh(c1)

    forget = sigmoid(0.7 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.4 + 0.6 * c1)
    take = sigmoid(0.2 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.2 + 0.3 * c1)
    new = tanh(0.4 * 0.7 + 0.2 * 0.9 + 0.1 * s1 + 0.5)
    c2 = forget * c1 + take * new
    give = sigmoid(0.6 * 0.7 + 0.4 * 0.9 + 0.2 * s1 + 0.1 + 0.5 * c2)
    s2 = give * tanh(c2)

    for states in states_of([INPUT, FORGET, ACTIVATION, OUTPUT], "lstm", peepholes=[0.3, 0.5, 0.6]):
        assert states == pytest.approx([s1, s2], abs=TOLERANCE)


RESET: Gate = ([0.7, 0.3, 0.4], 0.4, 0)
UPDATE: Gate = ([0.2, 0.3, 0.4], 0.2, 0)
# The two forms differ in what becomes of the state's own bias; with one unit, in nothing else.
NEW: Gate = ([0.4, 0.2, 0.1], 0.5, 0.8)


def test_scalar_gru_resets_after_its_matrix() -> None:
    """As in PyTorch, the reset gate scales the new state's whole recurrent share, the bias 0.8 included."""
    reset = sigmoid(0.7 * 0.1 + 0.3 * 0.4 + 0.4)
    update = sigmoid(0.2 * 0.1 + 0.3 * 0.4 + 0.2)
    new = tanh(0.4 * 0.1 + 0.2 * 0.4 + 0.5 + reset * (0.1 * 0 + 0.8))
    s1 = (1 - update) * new + update * 0

    reset = sigmoid(0.7 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.4)
    update = sigmoid(0.2 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.2)
    new = tanh(0.4 * 0.7 + 0.2 * 0.9 + 0.5 + reset * (0.1 * s1 + 0.8))
    s2 = (1 - update) * new + update * s1

    for states in states_of([RESET, UPDATE, NEW], "gru"):
        assert states == pytest.approx([s1, s2], abs=TOLERANCE)


def test_scalar_gru_resets_before_its_matrix() -> None:
    """As first published, the reset gate scales the state alone; the bias 0.8 is added whole."""
    update = sigmoid(0.2 * 0.1 + 0.3 * 0.4 + 0.2)
    new = tanh(0.4 * 0.1 + 0.2 * 0.4 + 0.5 + 0.8)  # there is no state to reset yet
    s1 = (1 - update) * new + update * 0

    reset = sigmoid(0.7 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.4)
    update = sigmoid(0.2 * 0.7 + 0.3 * 0.9 + 0.4 * s1 + 0.2)
    new = tanh(0.4 * 0.7 + 0.2 * 0.9 + 0.5 + 0.1 * (reset * s1) + 0.8)
    s2 = (1 - update) * new + update * s1

    for states in states_of([RESET, UPDATE, NEW], "gru", linear_before_reset=False):
        assert states == pytest.approx([s1, s2], abs=TOLERANCE)
