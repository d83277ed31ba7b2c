"""Recurrent stacks: the same answers as PyTorch's own packed sequences, and the same again as one ONNX node a layer."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from echo import servable_stack
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from training.export import parity
from training.export.graph import ExportError, check_graph, export
from training.fit.precision import settle
from training.networks.recurrent import Recurrent

CELLS = ["rnn", "lstm", "gru"]
OPTIONS: list[dict[str, Any]] = [
    *({"cell": cell} for cell in CELLS),
    {"cell": "lstm", "peepholes": True},
    {"cell": "gru", "linear_before_reset": False},
]
STOCK: dict[str, Any] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
FEATURES, HIDDEN = 3, 5
LENGTHS = torch.tensor([4, 1, 6, 3], dtype=torch.int32)
TOLERANCE = 1e-6  # float32 rounding of the same sums in another order


def stock_like(stack: Recurrent) -> nn.RNNBase:
    """PyTorch's own multi-layer module with the stack's weights."""
    stock: nn.RNNBase = STOCK[stack.cell](
        FEATURES, HIDDEN, len(stack.layers), batch_first=True, bidirectional=stack.bidirectional
    )
    for number, layer in enumerate(stack.layers):
        for name, weight in layer.named_parameters():
            getattr(stock, name.replace("_l0", f"_l{number}")).data.copy_(weight.data)
    return stock


def random_states(stack: Recurrent, batch: int) -> tuple[Tensor, ...]:
    return tuple(torch.randn_like(state) for state in stack.zero_states(batch))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("cell", CELLS)
def test_stack_equals_pytorch_on_packed_sequences(cell: Any, layers: int, bidirectional: bool) -> None:
    """Outputs and final states are those of nn.RNN, nn.LSTM or nn.GRU on packed sequences, from any initial state."""
    torch.manual_seed(0)
    stack = Recurrent(cell, FEATURES, HIDDEN, layers, bidirectional).eval()
    x = torch.randn(len(LENGTHS), 6, FEATURES)
    states = random_states(stack, len(LENGTHS))
    kinds = 2 if cell == "lstm" else 1
    initial = tuple(torch.cat(states[kind::kinds]) for kind in range(kinds))
    packed = pack_padded_sequence(x, LENGTHS.long(), batch_first=True, enforce_sorted=False)
    expected, final = stock_like(stack)(packed, initial if kinds > 1 else initial[0])
    expected, _ = pad_packed_sequence(expected, batch_first=True, total_length=x.shape[1])

    y, finals = stack(x, LENGTHS, states)

    torch.testing.assert_close(y, expected, atol=TOLERANCE, rtol=0)
    for kind, due in enumerate(final if kinds > 1 else (final,)):
        torch.testing.assert_close(torch.cat(finals[kind::kinds]), due, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_full_rows_equal_the_same_rows_in_a_ragged_batch(options: dict[str, Any], bidirectional: bool) -> None:
    """Rows as long as the batch is wide are not packed, and get the numbers and gradients that packed ones get."""
    torch.manual_seed(0)
    stack = Recurrent(
        **options, input_size=FEATURES, hidden_size=HIDDEN, layers=2, bidirectional=bidirectional, residual=True
    )
    x = torch.randn(3, 6, FEATURES)
    states = random_states(stack, 3)

    def read(x: Tensor, lengths: list[int], states: tuple[Tensor, ...]) -> list[Tensor]:
        y, finals = stack(x, torch.tensor(lengths, dtype=torch.int32), states)
        results = [y[:3, :6], *(final[:, :3] for final in finals)]
        gradients = torch.autograd.grad(sum(result.square().sum() for result in results), list(stack.parameters()))
        return [*results, *gradients]

    full = read(x, [6, 6, 6], states)
    shorter = torch.cat([x, torch.randn(1, 6, FEATURES)])
    packed = read(shorter, [6, 6, 6, 2], tuple(torch.cat([state, state[:, :1]], 1) for state in states))

    for one, other in zip(full, packed, strict=True):
        torch.testing.assert_close(one, other, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize("lengths", [[4, 1, 6, 3], [6, 6, 6, 6]])
@pytest.mark.parametrize("options", OPTIONS)
def test_stack_runs_under_bfloat16_autocast(options: dict[str, Any], lengths: list[int]) -> None:
    """Mixed precision gives float32 outputs and states near those of full precision, and gradients."""
    if options == {"cell": "lstm"} and settle("bf16-mixed", "cpu") == "32-true":
        pytest.skip("this processor has no bfloat16 LSTM, and so no run trains with it")
    torch.manual_seed(0)
    stack = Recurrent(**options, input_size=FEATURES, hidden_size=HIDDEN, layers=2, bidirectional=True)
    x, steps = torch.randn(4, 6, FEATURES), torch.tensor(lengths, dtype=torch.int32)
    y, finals = stack(x, steps)
    for given in (x, x.bfloat16()):  # as data, and as a layer under autocast gives it
        with torch.autocast("cpu", torch.bfloat16):
            mixed, mixed_finals = stack(given, steps)
        for one, other in zip((mixed, *mixed_finals), (y, *finals), strict=True):
            torch.testing.assert_close(one, other, atol=0.03, rtol=0)  # bfloat16 keeps 8 bits
    mixed.sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())


def test_outputs_beyond_a_rows_length_are_zero() -> None:
    """A row's outputs stop at its own length, whatever stands in the padding."""
    y, _ = Recurrent("gru", FEATURES, HIDDEN, bidirectional=True)(torch.randn(4, 9, FEATURES), LENGTHS)
    for row, length in zip(y, LENGTHS, strict=True):
        assert row[:length].abs().min() > 0
        assert row[length:].abs().max() == 0


def test_dropout_acts_between_layers_in_training_only() -> None:
    """Two runs differ in training and agree in evaluation."""
    stack = Recurrent("rnn", FEATURES, HIDDEN, layers=2, dropout=0.5)
    x = torch.randn(4, 6, FEATURES)
    assert not torch.equal(stack(x, LENGTHS)[0], stack(x, LENGTHS)[0])
    stack.eval()
    assert torch.equal(stack(x, LENGTHS)[0], stack(x, LENGTHS)[0])


def test_residual_adds_each_layers_input_but_the_firsts() -> None:
    """A stack of three is its layers one by one, the second's and the third's inputs added to their outputs."""
    stack = Recurrent("gru", HIDDEN, HIDDEN, layers=3, residual=True)
    singles = [Recurrent("gru", HIDDEN, HIDDEN) for _ in stack.layers]
    for single, layer in zip(singles, stack.layers, strict=True):
        single.layers[0].load_state_dict(layer.state_dict())
    x = torch.randn(4, 6, HIDDEN)
    read, _ = singles[0](x, LENGTHS)
    for single in singles[1:]:
        read = read + single(read, LENGTHS)[0]
    torch.testing.assert_close(stack(x, LENGTHS)[0], read, atol=TOLERANCE, rtol=0)


def test_states_are_named_by_kind_and_layer() -> None:
    """The manifest's states stand in the order in which `forward` takes and gives them, and begin at zero."""
    states = Recurrent("lstm", FEATURES, HIDDEN, layers=2).states
    assert [state.input for state in states] == ["h0", "c0", "h1", "c1"]
    assert [state.output for state in states] == ["h0_out", "c0_out", "h1_out", "c1_out"]
    assert {state.shape for state in states} == {(1, "batch", HIDDEN)}
    assert {state.start for state in states} == {0}


def exported() -> onnx.ModelProto:
    return onnx.load_from_string(export(servable_stack(Recurrent("gru", FEATURES, HIDDEN), FEATURES)))


def test_graph_with_fewer_nodes_than_layers_is_refused() -> None:
    """A layer that became anything but one recurrent node is reported with both counts."""
    with pytest.raises(ExportError, match="1 recurrent nodes for 2 layers"):
        check_graph(exported(), layers=2)


def test_graph_without_sequence_lens_is_refused() -> None:
    """A node that would read on through the padding is refused."""
    graph = exported()
    (node,) = [node for node in graph.graph.node if node.op_type == "GRU"]
    node.input[4] = ""
    with pytest.raises(ExportError, match="no sequence_lens"):
        check_graph(graph, layers=1)


def test_graph_with_computed_weights_is_refused() -> None:
    """Weights that are not initializers are named in the refusal."""
    graph = exported()
    (node,) = [node for node in graph.graph.node if node.op_type == "GRU"]
    given, node.input[1] = node.input[1], "computed"
    graph.graph.node.insert(0, onnx.helper.make_node("Identity", [given], ["computed"]))
    with pytest.raises(ExportError, match="computes its weights computed"):
        check_graph(graph, layers=1)


def test_parity_beyond_the_bound_is_refused_by_name() -> None:
    """A graph of other weights fails parity with PyTorch, and the message says in what."""
    servable, other = (servable_stack(Recurrent("gru", FEATURES, HIDDEN), FEATURES) for _ in range(2))
    with pytest.raises(parity.ParityError, match=r"not within 1e-05: torch_vs_onnx \d[.\d]*;"):
        parity.measure(servable, export(other)).require()


def test_parity_refuses_what_is_not_a_number() -> None:
    """NaN is within no bound."""
    stack = Recurrent("gru", FEATURES, HIDDEN)
    servable = servable_stack(stack, FEATURES)
    torch.nn.init.constant_(next(stack.parameters()), torch.nan)
    with pytest.raises(parity.ParityError, match="torch_vs_onnx nan"):
        parity.measure(servable, export(servable)).require()
