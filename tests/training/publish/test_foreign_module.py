"""Users' modules through `export_module`: the graph gives what the module gives, and the service answers it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import users_modules as users
from echo import no_server
from torch import Tensor, nn

from service.contract.files import read_manifest, verify_files
from service.contract.parts import Forecast
from training import export_module
from training.evaluate import ask, serving
from training.export.parity import BOUND
from training.publish import model_directory
from training.recipe import TextReader
from training.tasks.classifier.text import UNKNOWN, train_review_words

# PyTorch's own, of projected LSTMs on a processor with oneDNN.
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

TEXTS = ["good", "a good good film", "bad", "a very bad film , not good", "not bad , good"]
TOKENIZER = train_review_words(TEXTS, 20)
LABELS = ("negative", "positive")
ROWS, TIME = 4, 7
LENGTHS = torch.tensor([7, 5, 3, 2])
FORECAST = Forecast(min_history=3, max_history=12, horizon=2, quantiles=(0.1, 0.5, 0.9))


def values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ids() -> Tensor:
    return torch.arange(ROWS * TIME).view(ROWS, TIME) % users.WORDS


@dataclass(frozen=True)
class Case:
    """A module, and what `export_module` is told of it; `nodes` are its graph's recurrent ones."""

    module: nn.Module
    example: Any
    told: dict[str, Any]
    nodes: dict[str, int]


def whole() -> dict[str, Case]:
    """Those that read whole sequences, and are plain models."""
    x, lengths = values(ROWS, TIME, users.FEATURES), {"lengths": "lengths"}
    return {
        "packed": Case(users.Tagger(), (ids(), LENGTHS), lengths, {"LSTM": 2}),
        "projected": Case(users.Tagger(projection=3), (ids(), LENGTHS), lengths, {"LSTM": 2}),
        "time-first": Case(users.TimeFirst(), x.transpose(0, 1), {"time_axis": 0}, {"GRU": 1, "RNN": 2}),
        "attention": Case(users.Attention(), {"x": x, "lengths": LENGTHS.int()}, lengths, {"GRU": 1}),
        "pooled": Case(users.Pooled(), (x, LENGTHS), lengths, {"LSTM": 2}),
        "shared": Case(users.Shared(), [x], {}, {"LSTM": 2}),
        "convolution": Case(users.Convolution(), (x, LENGTHS), lengths, {"GRU": 1}),
        "started": Case(users.Started(), (x, LENGTHS), {**lengths, "outputs": {"read": (), "last": ()}}, {"LSTM": 2}),
    }


def stepping() -> dict[str, Case]:
    """Those that take and return their states."""
    x, zeros = values(ROWS, TIME, users.FEATURES), torch.zeros
    chunk = {"states": {"state": 1}}
    step: dict[str, Any] = {"time_axis": None}
    cells = {"x": x[:, 0], "h": zeros(ROWS, 6), "c": zeros(ROWS, 6) + 0.5, "g": zeros(ROWS, 5)}
    return {
        "stream": Case(users.Stream(), (x, (zeros(2, ROWS, 6), zeros(2, ROWS, 6))), chunk, {"LSTM": 2}),
        "stream-projected": Case(
            users.Stream(proj_size=2), (x, (zeros(2, ROWS, 2), zeros(2, ROWS, 6))), chunk, {"LSTM": 2}
        ),
        "one-step": Case(users.OneStep(), (x[:, 0], zeros(1, ROWS, 5)), {**step, "states": {"h": 1}}, {"GRU": 1}),
        "cells": Case(users.Cells(), cells, {**step, "states": {"h": "h", "c": "c", "g": "g"}}, {}),
    }


def answering() -> dict[str, Case]:
    """Those that read whole sequences as a task has them."""
    reader = TextReader(TOKENIZER.to_str(), 16, UNKNOWN, (-1, 1))
    words = {"lengths": "lengths", "text": reader, "outputs": {"scores": LABELS}}
    numbers = {"forecast": FORECAST, "outputs": {"mean": (), "quantiles": ()}}
    window = FORECAST.model_copy(update={"min_history": 7, "max_history": 7})
    return {
        "encoder": Case(users.Classifier(), (ids().int(), LENGTHS), words, {"LSTM": 1}),
        "forecaster": Case(users.Forecaster(2, 3), values(ROWS, TIME), numbers, {"GRU": 1}),
        "window": Case(users.Forecaster(2, 3), values(ROWS, TIME), {**numbers, "forecast": window}, {"GRU": 1}),
    }


WHOLE, OTHERS = tuple(whole()), (*stepping(), *answering())


@dataclass(frozen=True)
class Exported:
    """What became of the cases, and where they are served."""

    url: str
    cases: dict[str, Case]
    folders: dict[str, Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    cases = {**whole(), **stepping(), **answering()}
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_directory, "serving", no_server)
        for name, case in cases.items():
            folders[name] = export_module(
                case.module, case.example, name=name, **case.told, models_dir=folder / "models"
            )
    with serving(folder / "models") as url:
        for case in cases.values():
            assert case.module.training, "the module that was given is left as it was"
            case.module.eval()
        yield Exported(url, cases, folders)


@pytest.mark.parametrize("name", [*WHOLE, *OTHERS])
def test_each_layer_of_a_user_s_module_is_a_node_with_lengths_within_parity(exported: Exported, name: str) -> None:
    """Nodes by the number of layers and calls, each with sequence_lens; the measured parity is written down."""
    directory = exported.folders[name]
    nodes = [node for node in onnx.load(directory / "model.onnx").graph.node if node.op_type in ("LSTM", "GRU", "RNN")]
    assert {kind: sum(node.op_type == kind for node in nodes) for kind in {n.op_type for n in nodes}} == (
        exported.cases[name].nodes
    )
    assert all(node.input[4] for node in nodes)
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    assert (manifest.task == "tensor") == (name in WHOLE)
    assert manifest.provenance is not None
    assert 0 < manifest.provenance.parity_max_abs <= BOUND
    assert manifest.provenance.seed is None
    assert "from weights made elsewhere" in (directory / "card.md").read_text()


@pytest.mark.parametrize("name", WHOLE)
def test_the_graph_of_a_whole_ragged_batch_gives_each_row_s_own_answer(exported: Exported, name: str) -> None:
    """Rows in any order of length, junk behind them, against the module itself on each row alone."""
    case, lengths = exported.cases[name], [2, 9, 1, 6]
    session = onnxruntime.InferenceSession(exported.folders[name] / "model.onnx", providers=["CPUExecutionProvider"])
    manifest = read_manifest(exported.folders[name])
    sequence = manifest.sequence.name
    of_ids = sequence == "ids"
    rows = torch.randint(1, users.WORDS, (4, 9)) if of_ids else torch.randn(4, 9, users.FEATURES)
    made = session.run(None, {sequence: rows.numpy(), "lengths": np.array(lengths, np.int32)})
    for row, length in enumerate(lengths):
        alone = rows[row : row + 1, :length]
        given = alone.transpose(0, 1) if case.told.get("time_axis") == 0 else alone
        told = (torch.tensor([length]),) if "lengths" in case.told else ()
        with torch.no_grad():
            due = case.module(given, *told)
        for output, expected, declared in zip(
            made, due if isinstance(due, tuple) else (due,), manifest.outputs, strict=True
        ):
            timed = declared.has_time
            first = expected.transpose(0, 1) if timed and case.told.get("time_axis") == 0 else expected
            np.testing.assert_allclose(output[row, :length] if timed else output[row], first[0], atol=BOUND, rtol=0)


@pytest.mark.parametrize("name", ["stream", "stream-projected"])
def test_served_chunks_of_a_user_s_module_equal_pytorch(exported: Exported, name: str) -> None:
    """A session of two requests gives what one call gives from the example's states, which begin every session."""
    x, (_, states) = values(1, 5, users.FEATURES), exported.cases[name].example
    due, _ = exported.cases[name].module(x, tuple(state[:, :1] for state in states))
    every = {"model": name, "return": "all"}
    (first,) = ask(exported.url, "/v1/step", "items", [{"inputs": x[0, :2].tolist()}], **every)
    (then,) = ask(exported.url, "/v1/step", "items", [{"inputs": x[0, 2:].tolist(), "state": first["state"]}], **every)
    served = first["outputs"]["output"] + then["outputs"]["output"]
    np.testing.assert_allclose(served, due[0].detach(), atol=BOUND, rtol=0)


def test_served_single_steps_of_a_user_s_module_equal_pytorch(exported: Exported) -> None:
    """Modules whose call is one step are stepped, by a client, as they would be in Python."""
    x = values(3, users.FEATURES)
    h = torch.zeros(1, 1, 5)
    carried = [torch.zeros(1, 6), torch.full((1, 6), 0.5), torch.zeros(1, 5)]  # as the example begins
    one_step: dict[str, Any] = {}
    cells: dict[str, Any] = {}
    for row in x:
        due, h = exported.cases["one-step"].module(row[None], h)
        item = {"inputs": [row.tolist()], **({"state": one_step["state"]} if one_step else {})}
        (one_step,) = ask(exported.url, "/v1/step", "items", [item], model="one-step")
        np.testing.assert_allclose(one_step["outputs"]["output"], due[0].detach(), atol=BOUND, rtol=0)
        made = exported.cases["cells"].module(row[None], *carried[:2], g=carried[2])
        carried = [made["h"], made["c"], made["g"]]
        item = {"inputs": [row.tolist()], **({"state": cells["state"]} if cells else {})}
        (cells,) = ask(exported.url, "/v1/step", "items", [item], model="cells")
        np.testing.assert_allclose(cells["outputs"]["output"], made["answer"][0].detach(), atol=BOUND, rtol=0)


def test_served_texts_and_forecasts_of_users_modules_equal_pytorch(exported: Exported) -> None:
    """Rows of different lengths in one request get what each gets alone under PyTorch."""
    encoder, forecaster = exported.cases["encoder"].module, exported.cases["forecaster"].module
    results = ask(exported.url, "/v1/sentiment", "inputs", TEXTS, model="encoder", scores="all")
    for text, result in zip(TEXTS, results, strict=True):
        words = torch.tensor([TOKENIZER.encode(text).ids])
        due = encoder(words, torch.tensor([words.shape[1]]))[0]
        assert [result["scores"][label] for label in LABELS] == pytest.approx(due.tolist(), abs=BOUND)
    series = [{"values": values(length).tolist()} for length in (3, 8, 5)]
    answers = ask(exported.url, "/v1/forecast", "series", series, model="forecaster", horizon=2)
    for item, result in zip(series, answers, strict=True):
        mean, _ = forecaster(torch.tensor([item["values"]]))
        assert result["mean"] == pytest.approx(mean[0].tolist(), abs=BOUND)
