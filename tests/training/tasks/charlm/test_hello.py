"""The worked example of generation: a network over the letters h, e, l, o learns one word, and writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import ServerFactory
from torch.nn import functional

from service.contract.parts import Feedback
from training.publish.model_directory import publish
from training.recipe import Release, TextReader
from training.tasks.characters import UNKNOWN, make_tokenizer
from training.tasks.charlm.network import CharNetwork
from training.tasks.charlm.recipe import servable

# PyTorch 2.13 copies its own tree specifications in a way that it deprecates.
pytestmark = pytest.mark.filterwarnings(r"ignore:.*isinstance\\(treespec, LeafSpec\\):FutureWarning")

WORD, LETTERS = "hello", "helo"
STEPS = 150


def trained() -> CharNetwork:
    """Return a network that was shown the word until it knows which letter follows which, and where."""
    torch.manual_seed(0)
    network = CharNetwork(len(LETTERS), width=8, hidden=16, layers=1, dropout=0, unknown_rate=0)
    ids = torch.tensor([make_tokenizer(LETTERS).encode(WORD).ids])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.03)
    lengths = torch.tensor([len(WORD) - 1], dtype=torch.int32)
    for _ in range(STEPS):
        scores, _ = network.logits(ids[:, :-1], lengths, *network.recurrent.zero_states(1))
        loss = functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def released(network: CharNetwork) -> Release:
    return Release(
        name="hello",
        task="step",
        description="Writes one word.",
        servable=servable(network, tuple(LETTERS)),
        data=(),
        licence="Apache-2.0",
        limits=("It knows one word.",),
        measure=lambda url: (),
        networks=(network.recurrent.network,),
        text=TextReader(make_tokenizer(LETTERS).to_str(), max_length=16, unknown_token=UNKNOWN),
        feedback=Feedback(kind="categorical", output="probabilities", form="probabilities", start=LETTERS.index("h")),
    )


def test_a_network_that_learned_hello_writes_it(tmp_path: Path, start_server: ServerFactory) -> None:
    """From its first letter, and from nothing, greedily; letter by letter the same, each on the state of the last."""
    publish(released(trained()), tmp_path / "models", command="test", seed=0)
    server = start_server(tmp_path / "models", tmp_path / "state")

    def write(item: dict[str, str], steps: int) -> dict[str, str]:
        body = {"items": [item], "temperature": 0, "max_steps": steps}
        return server.post("/v1/generate", body).json()["results"][0]["choices"][0]

    assert "h" + write({"prompt": "h"}, 4)["text"] == WORD
    assert "h" + write({}, 4)["text"] == WORD
    written, item = "h", {"prompt": "h"}
    while len(written) < len(WORD):
        choice = write(item, 1)
        written, item = written + choice["text"], {"state": choice["state"]}
    assert written == WORD
