"""The family of recurrent networks: each member learns, is published within parity, and answers as under PyTorch.

Members in one direction are stepped over HTTP. Those in both directions cannot stream; they read texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from echo import draw_rows, no_server
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from service.contract import files, provenance, tensors
from training.evaluate import ask, serving
from training.export.graph import Servable
from training.export.parity import BOUND
from training.networks.recurrent import NetworkError, Recurrent
from training.publish import model_directory
from training.recipe import Release, TextReader
from training.tasks.classifier.sentiment import LABELS, POLARITY
from training.tasks.classifier.text import UNKNOWN, train_review_words

DEEP: dict[str, Any] = {"dropout": 0.1, "residual": True, "learned_start": True}
CELLS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "rnn-tanh": ({"cell": "rnn"}, set()),
    "rnn-relu": ({"cell": "rnn", "nonlinearity": "relu"}, {"relu"}),
    "lstm": ({"cell": "lstm"}, set()),
    "lstm-peepholes": ({"cell": "lstm", "peepholes": True}, {"peepholes"}),
    "gru": ({"cell": "gru"}, set()),
    "gru-reset-before": ({"cell": "gru", "linear_before_reset": False}, {"reset_before"}),
}
STREAMING = {f"{name}-{layers}": cell for layers in (1, 3) for name, (cell, _) in CELLS.items()}
BOTH = {"bidirectional": True}
WHOLE = {f"{name}-both-2": cell | BOTH for name, (cell, _) in CELLS.items()}
FEATURES, HIDDEN = 2, 6
TEXTS = ["good", "a good good film", "bad", "a very bad film , not good", "not bad , good"]


def options_of(name: str) -> dict[str, Any]:
    """The options of the member `name`; those with several layers have all that stacks can have."""
    layers = int(name[-1])
    return (STREAMING | WHOLE)[name] | {"layers": layers} | (DEEP if layers > 1 else {})


class Averager(nn.Module):
    """Read numbers; after each, say the mean of all so far."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.recurrent = Recurrent(input_size=FEATURES, hidden_size=HIDDEN, **options)
        self.head = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, lengths: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        read, carried = self.recurrent(x, lengths, states or None)
        return self.head(read), *carried

    def loss(self) -> Tensor:
        x = torch.randn(32, 7, FEATURES, generator=torch.Generator().manual_seed(1)) + 0.5
        lengths = torch.arange(32, dtype=torch.int32) % 7 + 1
        due = x.mean(2, keepdim=True).cumsum(1) / torch.arange(1, 8)[:, None]
        own = torch.arange(7) < lengths[:, None]
        return functional.mse_loss(self(x, lengths)[0][own], due[own])

    def servable(self) -> Servable:
        return Servable(
            self,
            tensors.Tensor(name="x", dtype="float32", shape=("batch", "time", FEATURES)),
            (tensors.Tensor(name="mean", dtype="float32", shape=("batch", "time", 1)),),
            draw_rows(FEATURES),
            states=self.recurrent.states,
            streamable=True,
        )


class Judge(nn.Module):
    """Read a text in both directions; say whether its most frequent word stands in it."""

    def __init__(self, vocabulary: int, **options: Any) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.table = nn.Embedding(vocabulary, FEATURES)
        self.recurrent = Recurrent(input_size=FEATURES, hidden_size=HIDDEN, **options)
        self.head = nn.Linear(2 * HIDDEN, len(LABELS))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        read, _ = self.recurrent(self.table(ids), lengths)
        return self.head(read.sum(1) / lengths[:, None]).softmax(-1)

    def loss(self) -> Tensor:
        ids = torch.randint(self.vocabulary, (32, 7), generator=torch.Generator().manual_seed(1))
        lengths = torch.arange(32, dtype=torch.int32) % 7 + 1
        due = ((ids == 2) & (torch.arange(7) < lengths[:, None])).any(1)
        return functional.nll_loss(self(ids, lengths).log(), due.long())

    def servable(self) -> Servable:
        return Servable(
            self,
            tensors.Tensor(name="ids", dtype="int64", shape=("batch", "time")),
            (tensors.Tensor(name="scores", dtype="float32", shape=("batch", 2), labels=LABELS),),
            lambda rng, length: rng.integers(self.vocabulary, size=length),
        )


def learn(network: Averager | Judge) -> None:
    """Train a little, and see to it that it helped and that every parameter took part."""
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    first = network.eval().loss()
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(15):
        optimizer.zero_grad()
        network.loss().backward()
        optimizer.step()
    assert network.eval().loss() < 0.9 * first
    unmoved = [name for name, parameter in network.named_parameters() if torch.equal(parameter, before[name])]
    assert not unmoved


def make(name: str, tokenizer: Tokenizer) -> Averager | Judge:
    options = options_of(name)
    return Judge(tokenizer.get_vocab_size(), **options) if name in WHOLE else Averager(**options)


def release(name: str, network: Averager | Judge, tokenizer: Tokenizer) -> Release:
    return Release(
        name=name,
        task="sentiment" if name in WHOLE else "step",
        description="A member of the family.",
        servable=network.servable(),
        data=(provenance.DataSource(name="numbers", part="drawn while training"),),
        licence="Apache-2.0",
        limits=("It is a test.",),
        measure=lambda url: (),
        networks=(network.recurrent.network,),
        text=TextReader(tokenizer.to_str(), 20, UNKNOWN, POLARITY) if name in WHOLE else None,
    )


@dataclass(frozen=True)
class Family:
    """What was trained, and where it is served."""

    url: str
    models: Path
    networks: dict[str, nn.Module]
    tokenizer: Tokenizer


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    models = tmp_path_factory.mktemp("models")
    tokenizer = train_review_words(TEXTS, 20)
    networks: dict[str, Averager | Judge] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_directory, "serving", no_server)
        for name in STREAMING | WHOLE:
            torch.manual_seed(0)
            network = make(name, tokenizer)
            learn(network)
            model_directory.publish(release(name, network, tokenizer), models, command="test", seed=0)
            networks[name] = network
    with serving(models) as url:
        yield Family(url, models, networks, tokenizer)


@pytest.mark.parametrize("name", STREAMING | WHOLE)
def test_member_is_published_within_parity_as_one_node_a_layer(family: Family, name: str) -> None:
    """Graph, facts and card agree on what the member is; one direction streams, and was compared in chunks."""
    manifest = files.read_manifest(family.models / name / "1")
    (network,), provenance = manifest.networks, manifest.provenance
    assert provenance is not None
    assert 0 < provenance.parity_max_abs <= BOUND
    deep = {"residual", "learned_start"} if network.layers > 1 else set()
    _, variants = CELLS[name[:-2].removesuffix("-both")]
    assert set(network.variants) == variants | deep
    nodes = [node.op_type for node in onnx.load(family.models / name / "1/model.onnx").graph.node]
    assert nodes.count(network.cell.upper()) == network.layers == int(name[-1])
    card = (family.models / name / "1/card.md").read_text()
    assert ("chunks with carried state" in card) == manifest.streamable == (name in STREAMING)
    assert ("residual connections and a learned initial state;" in card) == bool(deep)


@pytest.mark.parametrize("name", STREAMING)
def test_served_steps_equal_pytorch(family: Family, name: str) -> None:
    """A new session, and what follows from its state, give the numbers of one run under PyTorch from its own start."""
    x = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(2))
    due, *_ = family.networks[name](x[None], torch.tensor([5], dtype=torch.int32))
    (first,) = ask(family.url, "/v1/step", "items", [{"inputs": x[:2].tolist()}], model=name, **{"return": "all"})
    rest = [{"inputs": x[2:].tolist(), "state": first["state"]}]
    (then,) = ask(family.url, "/v1/step", "items", rest, model=name, **{"return": "all"})
    served = first["outputs"]["mean"] + then["outputs"]["mean"]
    np.testing.assert_allclose(served, due[0].detach(), atol=BOUND, rtol=0)


@pytest.mark.parametrize("name", WHOLE)
def test_served_texts_equal_pytorch(family: Family, name: str) -> None:
    """Texts of different lengths in one request get the scores that each gets alone under PyTorch."""
    results = ask(family.url, "/v1/sentiment", "inputs", TEXTS, model=name, scores="all")
    for text, result in zip(TEXTS, results, strict=True):
        ids = torch.tensor([family.tokenizer.encode(text).ids])
        (due,) = family.networks[name](ids, torch.tensor([ids.shape[1]], dtype=torch.int32)).detach()
        assert [result["scores"][label] for label in LABELS] == pytest.approx(due.tolist(), abs=BOUND)


@pytest.mark.parametrize(
    ("cell", "option"),
    [("gru", {"peepholes": True}), ("lstm", {"linear_before_reset": False}), ("lstm", {"nonlinearity": "relu"})],
)
def test_option_of_another_cell_is_refused(cell: Any, option: dict[str, Any]) -> None:
    """An option that would do nothing is refused, with the cell that has it."""
    (name,) = option
    with pytest.raises(NetworkError, match=rf"^{name} is an option of the cell '\w+', and this one is '{cell}'"):
        Recurrent(cell, FEATURES, HIDDEN, **option)


def test_first_step_begins_at_the_learned_start(family: Family) -> None:
    """The start stands in the manifest as it was learned."""
    recurrent = family.networks["lstm-3"].recurrent
    manifest = files.read_manifest(family.models / "lstm-3/1")
    for state, start in zip(manifest.states, recurrent.zero_states(1), strict=True):
        assert np.any(start.detach().numpy())
        np.testing.assert_array_equal(np.array(state.start, np.float32), start[:, 0].detach())
