"""The steps that docs/recurrent-networks.md works by hand, through PyTorch and through ONNX Runtime."""

from __future__ import annotations

import re
from math import exp, tanh
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import ROOT
from echo import servable_stack

from training.export.graph import export
from training.networks.nodes import GATES, Cell
from training.networks.recurrent import Recurrent

PAGE = (ROOT / "docs" / "recurrent-networks.md").read_text()
SECTION = PAGE.split("## One step by hand")[1].split("\n## ")[0]
PARTS = {"lstm": SECTION.split("### ")[1], "gru": SECTION.split("### ")[2]}
ROUNDED = 5.1e-5  # half of the last digit that the page shows, and float32's rounding
Gates = dict[str, list[float]]


def gates(cell: str) -> Gates:
    """The rows of the table: weights, sum and value of each gate, in PyTorch's order."""
    rows = re.findall(r"^\| ([a-z]) \| (.*) \|$", PARTS[cell], flags=re.MULTILINE)
    return {gate: [float(number) for number in numbers.split("|")] for gate, numbers in rows}


def given(cell: str, *names: str) -> list[float]:
    """The numbers that the page gives names, as in `x = 1`."""
    return [float(re.findall(rf"`{name} = (-?[\d.]+)`", PARTS[cell])[0]) for name in names]


def results(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"\*\*([\d.]+)\*\*", PARTS[cell])]


def step(
    cell: Cell, x: float, states: list[float], peepholes: list[float] | None = None, **options: Any
) -> list[list[float]]:
    """The states after the step, by PyTorch and by ONNX Runtime."""
    stack = Recurrent(cell, 1, 1, peepholes=peepholes is not None, **options)
    rows = list(gates(cell).values())
    columns = {
        "weight_ih_l0": [[row[0]] for row in rows],
        "weight_hh_l0": [[row[1]] for row in rows],
        "bias_ih_l0": [row[2] for row in rows],
        "bias_hh_l0": [sum(row[3:-2]) for row in rows],  # where the page gives both biases
        "weight_peephole_l0": peepholes,
    }
    for name, parameter in stack.layers[0].named_parameters():
        parameter.data.copy_(torch.tensor(columns[name]))
    servable = servable_stack(stack, 1)
    feeds = [torch.tensor([[[x]]]), torch.tensor([1], dtype=torch.int32), *(torch.tensor([[[s]]]) for s in states)]
    _, by_torch = stack(*feeds[:2], tuple(feeds[2:]))
    session = onnxruntime.InferenceSession(export(servable), providers=["CPUExecutionProvider"])
    names = [state.output for state in stack.states]
    by_onnx = session.run(names, {n: f.numpy() for n, f in zip(servable.input_names, feeds, strict=True)})
    return [[state.item() for state in found] for found in (by_torch, by_onnx)]


def test_the_page_s_orders_of_gates_are_those_of_the_exporter() -> None:
    rows = re.findall(r"^\| (LSTM|GRU) \| ([a-z, ]+) \| ([a-z, ]+) \|", PAGE, flags=re.MULTILINE)
    orders = {name: (by_torch.split(", "), by_onnx.split(", ")) for name, by_torch, by_onnx in rows}
    assert orders.keys() == {"LSTM", "GRU"}
    cells: tuple[Cell, ...] = ("lstm", "gru")
    for cell in cells:
        by_torch, by_onnx = orders[cell.upper()]
        assert [by_torch[place] for place in GATES[cell]] == by_onnx


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def test_the_gates_of_the_tables_follow_from_their_weights() -> None:
    for cell in PARTS:
        x, h = given(cell, "x", "h")
        for gate, (w, u, b, *more, total, value) in gates(cell).items():
            reset = gates(cell)["r"][-1] if gate == "n" else 1
            computed = w * x + b + reset * (u * h + sum(more))
            assert total == pytest.approx(computed, abs=ROUNDED)
            assert value == pytest.approx(tanh(computed) if gate in "gn" else sigmoid(computed), abs=ROUNDED)


def test_the_page_s_lstm_step_is_that_of_pytorch_and_onnx_runtime() -> None:
    assert list(gates("lstm")) == ["i", "f", "g", "o"]
    x, h, c = given("lstm", "x", "h", "c")
    see_input, see_forget, see_output = given("lstm", "p_i", "p_f", "p_o")
    for peepholes, (c_next, h_next) in (
        (None, results("lstm")[:2]),
        ([see_input, see_output, see_forget], results("lstm")[2:]),
    ):
        for states in step("lstm", x, [h, c], peepholes):
            assert states == pytest.approx([h_next, c_next], abs=ROUNDED)


def test_the_page_s_gru_step_is_that_of_pytorch_and_onnx_runtime() -> None:
    assert list(gates("gru")) == ["r", "z", "n"]
    x, h = given("gru", "x", "h")
    for after, h_next in zip((True, False), results("gru"), strict=True):
        for states in step("gru", x, [h], linear_before_reset=after):
            assert states == pytest.approx([h_next], abs=ROUNDED)
