"""A decoder that attends, with the graph that its sessions begin with: exported together and compared with PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from service.contract import tensors
from training.export import parity
from training.export.compact import InexactError
from training.export.graph import Array, Servable, Starting, export
from training.networks.recurrent import Recurrent

IDS, WIDTH = 40, 8


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(IDS, WIDTH)
        self.recurrent = Recurrent("gru", WIDTH, WIDTH // 2, bidirectional=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        read, (last,) = self.recurrent(self.table(ids), lengths)
        return torch.cat([last[0], last[1]], 1)[None], read


class Writer(nn.Module):
    """Attends to all of its memory, or with `blind` to what pads it as well."""

    def __init__(self, blind: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(IDS, WIDTH)
        self.recurrent, self.blind = Recurrent("gru", WIDTH, WIDTH), blind

    def forward(
        self, ids: Tensor, lengths: Tensor, memory_lengths: Tensor, h: Tensor, memory: Tensor
    ) -> tuple[Tensor, ...]:
        wrote, (last,) = self.recurrent(self.table(ids), lengths, (h,))
        scores = wrote @ memory.transpose(1, 2)
        if not self.blind:
            beyond = torch.arange(memory.shape[1]) >= memory_lengths[:, None]
            scores = scores.masked_fill(beyond[:, None], float("-inf"))
        weights = scores.softmax(2)
        return wrote + weights @ memory, weights, last


def draw(rng: np.random.Generator, length: int) -> Array:
    return rng.integers(0, IDS, length, dtype=np.int32)


def servable(*, blind: bool = False, float16_weights: bool = False) -> Servable:
    """A writer whose sessions begin with what a reader made of ids."""
    torch.manual_seed(0)
    reader, writer = (part.half().float() if float16_weights else part for part in (Reader(), Writer(blind)))
    ids = tensors.Tensor(name="ids", dtype="int32", shape=("batch", "time"))
    state: tensors.Shape = (1, "batch", WIDTH)
    memory: tensors.Shape = ("batch", "time", WIDTH)
    begun = (
        tensors.Tensor(name="h_start", dtype="float32", shape=state),
        tensors.Tensor(name="memory_start", dtype="float32", shape=memory),
    )
    return Servable(
        writer,
        ids,
        (
            tensors.Tensor(name="y", dtype="float32", shape=memory),
            tensors.Tensor(name="weights", dtype="float32", shape=("batch", "time", "memory")),
        ),
        draw,
        states=(
            tensors.State(input="h", output="h_out", dtype="float32", shape=state),
            tensors.State(input="memory", output=None, dtype="float32", shape=("batch", "memory", WIDTH)),
        ),
        streamable=True,
        float16_weights=float16_weights,
        start=Starting(Servable(reader, ids, begun, draw), {"h": "h_start", "memory": "memory_start"}),
    )


def exported(both: Servable) -> tuple[bytes, bytes]:
    assert both.start is not None
    return export(both), export(both.start.graph)


def test_both_graphs_give_what_the_networks_give() -> None:
    """Whatever the batch, the padding of rows and of memories, and the chunks."""
    both = servable()
    assert both.input_names == ["ids", "lengths", "memory_lengths", "h", "memory"]
    assert both.output_names == ["y", "weights", "h_out"]
    gaps = parity.measure(both, *exported(both))
    gaps.require()
    assert gaps.chunks_vs_whole is not None


def test_what_pads_a_memory_may_change_nothing() -> None:
    both = servable(blind=True)
    with pytest.raises(parity.ParityError, match=r"ragged_vs_single .*junk_in_padding"):
        parity.measure(both, *exported(both)).require()


def test_a_start_graph_of_other_weights_is_refused() -> None:
    """The start graph is compared with its network by itself."""
    both, other = servable(), servable()
    assert both.start is not None
    torch.nn.init.normal_(both.start.graph.network.table.weight)  # type: ignore[operator, union-attr]
    with pytest.raises(parity.ParityError, match="torch_vs_onnx"):
        parity.measure(both, *exported(other)).require()


def test_weights_held_in_float16_change_no_answer() -> None:
    """The file is smaller, and what it computes is what the same weights give in float32."""
    compact = servable(float16_weights=True)
    small, start = exported(compact)
    large = export(replace(compact, float16_weights=False))
    held = {tensor.data_type for tensor in onnx.load_from_string(small).graph.initializer if np.prod(tensor.dims) > 256}
    assert held == {onnx.TensorProto.FLOAT16}
    parity.measure(compact, small, start).require()
    suites = [parity.Suite(compact, graph) for graph in (small, large)]
    rows = [draw(np.random.default_rng(0), length) for length in (3, 7)]
    one, other = (suite.run_onnx(rows) for suite in suites)
    assert parity.largest_gap(one, other) == 0


def test_weights_that_are_no_float16_are_refused() -> None:
    with pytest.raises(InexactError, match="round them"):
        export(replace(servable(), float16_weights=True))
